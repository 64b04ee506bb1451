"""Latent consistency models: the networks of Stable Diffusion 1, with a UNet that takes the guidance scale.

Luo et al. 2023, https://arxiv.org/abs/2310.04378. diffusers: `LatentConsistencyModelPipeline`.
"""

from dataclasses import replace

from diffoundry.exporter.component import Component, Configs
from diffoundry.exporter.components.unet import UNET
from diffoundry.exporter.families.stable_diffusion import FAMILY as STABLE_DIFFUSION
from diffoundry.runtime.errors import CheckpointError

__all__ = ["FAMILY"]


def _describe_unet(configs: Configs) -> Component:
    """Describe the UNet, and check that it takes the guidance scale."""
    if configs["unet"].get("time_cond_proj_dim") is None:
        raise CheckpointError(
            "unet/config.json: field 'time_cond_proj_dim': got none, expected a number: the UNet of a latent "
            "consistency model takes the guidance scale as an input"
        )
    return UNET.describe(configs)


FAMILY = replace(
    STABLE_DIFFUSION,
    name="latent_consistency",
    components=tuple(
        replace(kind, describe=_describe_unet) if kind is UNET else kind for kind in STABLE_DIFFUSION.components
    ),
)
