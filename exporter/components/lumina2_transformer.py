"""Lumina2Transformer2DModel: noisy latents, a time and a prompt to the negative velocity.

Qin et al. 2025, Lumina-Image 2.0, https://arxiv.org/abs/2503.21758.
"""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs
from diffoundry.exporter.components.latents import check_latent_channels, latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.causal_lm import read_causal_layout
from diffoundry.runtime.models.lumina2_transformer_2d import read_layout
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["lumina2_transformer"]

_CLASS = "Lumina2Transformer2DModel"
_SOURCE = "transformer"


def lumina2_transformer(tokens: int) -> ComponentKind:
    """Declare the denoiser of Lumina-Image 2.0.

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
    subject = f"{_SOURCE}/config.json"
    layout = read_layout(configs[_SOURCE], subject)
    check_latent_channels(configs, _SOURCE, layout.in_channels)
    if layout.out_channels != layout.in_channels:
        raise refuse(subject, "out_channels", layout.out_channels, f"{layout.in_channels}, the in_channels")
    text = read_causal_layout(configs["text_encoder"], "text_encoder/config.json").width
    if layout.text_width != text:
        raise refuse(subject, "cap_feat_dim", layout.text_width, f"{text}, the hidden_size of the text encoder")
    patch, half = layout.patch_size, sum(layout.axes) // 2
    pixels = patch * factor
    row, place = ("batch", "sequence"), ("batch", f"height/{pixels}", f"width/{pixels}")
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", layout.in_channels, height, width)),
            # Between 0 and 1
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=(*row, layout.text_width)),
            TensorSpec(name="encoder_attention_mask", dtype="float32", shape=row),
            TensorSpec(name="rotary_cos", dtype="float32", shape=(*place, half)),
            TensorSpec(name="rotary_sin", dtype="float32", shape=(*place, half)),
            TensorSpec(name="text_rotary_cos", dtype="float32", shape=("sequence", half)),
            TensorSpec(name="text_rotary_sin", dtype="float32", shape=("sequence", half)),
        ),
        outputs=(
            TensorSpec(
                name="out_hidden_states", dtype="float32", shape=("batch", layout.out_channels, height, width)
            ),
        ),
        example={
            "batch": 2, "sequence": 7, height: 3 * patch, width: 4 * patch,
            "height": 3 * pixels, "width": 4 * pixels,
        },
        sizes={
            name: DimSpec(multiple_of=pixels, max=length * pixels)
            for name, length in zip(("height", "width"), layout.lengths[1:], strict=True)
        },
        usual={"sequence": tokens},
        wrapper="diffoundry.exporter.components.lumina2_transformer_module:Lumina2Module",
    )  # fmt: skip
