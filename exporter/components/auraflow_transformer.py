"""AuraFlowTransformer2DModel: noisy latents, a timestep and a prompt to the velocity for flow matching.

Cloneofsimo and others 2024, https://blog.fal.ai/auraflow.
"""

from functools import partial
from math import isqrt

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.latents import check_latent_channels, latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.auraflow_transformer_2d import POSITIONS
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["auraflow_transformer"]

_CLASS = "AuraFlowTransformer2DModel"
_SOURCE = "transformer"


def auraflow_transformer(tokens: int) -> ComponentKind:
    """Declare the denoiser of AuraFlow.

    Args:
        tokens: Tokens of a prompt by default.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=(f"diffusers:{_CLASS}",),
        describe=partial(_describe, tokens=tokens),
    )


def _describe(configs: Configs, *, tokens: int) -> Component:
    height, width = latent_dims(configs)
    factor = parse_size(height).divisor
    channels = read_integer(configs, _SOURCE, "in_channels", 4)
    check_latent_channels(configs, _SOURCE, channels)
    given = configs[_SOURCE].get("out_channels", 4)
    if given not in (None, channels):
        raise refuse(f"{_SOURCE}/config.json", "out_channels", given, f"{channels}, the in_channels")
    patch = read_integer(configs, _SOURCE, "patch_size", 2)
    pixels = patch * factor
    # Positions are rows of a learned table, which is a square.
    most = isqrt(read_integer(configs, _SOURCE, "pos_embed_max_size", POSITIONS))
    sides = DimSpec(max=most * pixels, multiple_of=pixels)
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", channels, height, width)),
            # Between 0 and 1
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(
                name="encoder_hidden_states",
                dtype="float32",
                shape=("batch", "sequence", read_integer(configs, _SOURCE, "joint_attention_dim", 2048)),
            ),
            TensorSpec(name="position_ids", dtype="int32", shape=(f"height/{pixels}", f"width/{pixels}")),
        ),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=("batch", channels, height, width)),),
        example={
            "batch": 2, "sequence": 7, height: 3 * patch, width: 4 * patch,
            "height": 3 * pixels, "width": 4 * pixels,
        },
        sizes={"height": sides, "width": sides},
        usual={"sequence": tokens},
        wrapper="diffoundry.exporter.components.auraflow_transformer_module:AuraFlowModule",
    )  # fmt: skip
