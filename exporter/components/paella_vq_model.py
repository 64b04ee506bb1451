"""Decoder of PaellaVQModel: latents of Stable Cascade or Würstchen to images. Nothing is quantized.

Rampas et al. 2022, https://arxiv.org/abs/2211.07292.
"""

from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.paella_vq_model import MOST_LEVELS
from diffoundry.runtime.models.roles import VAE_DECODER

__all__ = ["paella_decoder", "paella_factor"]

_CLASS = "PaellaVQModel"


def paella_factor(configs: Configs, source: str) -> int:
    """Return the pixels to a side of a latent.

    Args:
        configs: Configs of the checkpoint.
        source: Folder of the network.

    Raises:
        ConfigError: A field of the config is damaged.
    """
    levels = integer(configs[source], "levels", 2, subject=f"{source}/config.json", maximum=MOST_LEVELS)
    return int(read_integer(configs, source, "up_down_scale_factor", 2) * 2 ** (levels - 1))


def paella_decoder(source: str = "vqgan") -> ComponentKind:
    """Declare the decoder.

    Args:
        source: Folder of the checkpoint.
    """
    return ComponentKind(
        name="vae_decoder",
        source=source,
        classes=(f"wuerstchen:{_CLASS}", f"diffusers:{_CLASS}"),
        describe=partial(_describe, source=source),
    )


def _describe(configs: Configs, *, source: str) -> Component:
    factor = paella_factor(configs, source)
    height, width = f"height/{factor}", f"width/{factor}"
    latent, pixels = (
        read_integer(configs, source, key, default) for key, default in (("latent_channels", 4), ("out_channels", 3))
    )
    return Component(
        name="vae_decoder",
        role=VAE_DECODER,
        network=_CLASS,
        source=source,
        inputs=(TensorSpec(name="latent_sample", dtype="float32", shape=("batch", latent, height, width)),),
        outputs=(TensorSpec(name="sample", dtype="float32", shape=("batch", pixels, "height", "width")),),
        example={"batch": 2, height: 9, width: 11},
        call=Call(layers=("up_blocks", "out_block")),
    )
