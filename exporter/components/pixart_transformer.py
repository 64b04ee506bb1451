"""PixArtTransformer2DModel: noisy latents, a timestep and a prompt to predicted noise, often with its variance.

Chen et al. 2023, https://arxiv.org/abs/2310.00426.
"""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.latents import check_latent_channels, latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.pixart_transformer_2d import read_layout
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["pixart_transformer"]

_CLASS = "PixArtTransformer2DModel"
_SOURCE = "transformer"


def pixart_transformer(tokens: int, *, perturbs: bool = False) -> ComponentKind:
    """Declare the denoiser of PixArt.

    Args:
        tokens: Tokens of a prompt by default.
        perturbs: True if an input names layers whose attention is perturbed.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        # Published configs name the class by its name before diffusers 0.29, and diffusers builds the other.
        classes=(f"diffusers:{_CLASS}", "diffusers:Transformer2DModel"),
        describe=partial(_describe, tokens=tokens, perturbs=perturbs),
    )


def _describe(configs: Configs, *, tokens: int, perturbs: bool) -> Component:
    height, width = latent_dims(configs)
    factor = parse_size(height).divisor
    config, subject = configs[_SOURCE], f"{_SOURCE}/config.json"
    layout = read_layout(config, subject)
    check_latent_channels(configs, _SOURCE, layout.in_channels)
    if config.get("attention_type", "default") != "default":
        raise refuse(subject, "attention_type", config["attention_type"], "'default'")
    patch, half = layout.patch_size, layout.channels // 2
    context = configs[_SOURCE].get("caption_channels")
    field = "cross_attention_dim" if context is None else "caption_channels"
    pixels = patch * factor
    sides = DimSpec(multiple_of=pixels)
    row = ("batch", "sequence")
    sizes = (
        TensorSpec(name="resolution", dtype="float32", shape=(1, 2)),
        TensorSpec(name="aspect_ratio", dtype="float32", shape=(1, 1)),
    )
    blocks = read_integer(configs, _SOURCE, "num_layers", 28)
    layers = TensorSpec(name=IDENTITY_LAYERS, dtype="float32", shape=("batch", blocks))
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", layout.in_channels, height, width)),
            # Also between the integers, as schedulers on sigmas have them.
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(
                name="encoder_hidden_states",
                dtype="float32",
                shape=(*row, read_integer(configs, _SOURCE, field, layout.channels)),
            ),
            TensorSpec(name="encoder_attention_mask", dtype="float32", shape=row),
            TensorSpec(name="position_rows", dtype="float32", shape=(f"height/{pixels}", half)),
            TensorSpec(name="position_columns", dtype="float32", shape=(f"width/{pixels}", half)),
            *(sizes if layout.takes_size else ()),
            *((layers,) if perturbs else ()),
        ),
        outputs=(
            TensorSpec(
                name="out_hidden_states", dtype="float32", shape=("batch", layout.out_channels, height, width)
            ),
        ),
        example={
            "batch": 2, "sequence": 7, height: 5 * patch, width: 7 * patch,
            "height": 5 * pixels, "width": 7 * pixels,
        },
        sizes={"height": sides, "width": sides},
        usual={"sequence": tokens},
        wrapper="diffoundry.exporter.components.pixart_transformer_module:PixArtModule",
    )  # fmt: skip
