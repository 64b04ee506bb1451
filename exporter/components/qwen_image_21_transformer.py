"""QwenImage21Transformer2DModel: noisy latents, a timestep, a prompt and images to the velocity for flow matching."""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.causal_lm import read_causal_layout
from diffoundry.runtime.models.qwen_image_21_transformer_2d import SIDE, SLOT, read_layout
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["qwen_image_21_transformer"]

_CLASS = "QwenImage21Transformer2DModel"
_SOURCE = "transformer"


def qwen_image_21_transformer(tokens: int) -> ComponentKind:
    """Declare the denoiser of Qwen-Image 2.1.

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
    subject = f"{_SOURCE}/config.json"
    layout = read_layout(configs[_SOURCE], subject)
    text = read_causal_layout(configs["text_encoder"], "text_encoder/config.json").width
    for name, found, expected, reason in (
        ("in_channels", layout.in_channels, read_integer(configs, "vae", "z_dim", 64), "the z_dim of the VAE"),
        ("context_in_dim", layout.width, text, "the hidden_size of the text encoder"),
    ):
        if found != expected:
            raise refuse(subject, name, found, f"{expected}, {reason}")
    height, width = latent_dims(configs)
    pixels, half = parse_size(height).divisor, sum(layout.axes) // 2
    states, row = ("batch", height, width, layout.in_channels), ("batch", "sequence")
    shapes: dict[str, tuple[int | str, ...]] = {
        "hidden_states": states,
        "timestep": (1,),  # between 0 and 1
        "encoder_hidden_states": (*row, layout.width),
        "encoder_hidden_states_mask": row,
        "rotary_cos": (*states[:3], half),
        "rotary_sin": (*states[:3], half),
        "text_cos": ("sequence", half),
        "text_sin": ("sequence", half),
        "text_order": ("sequence",),
        "reference_hidden_states": ("batch", "reference", layout.in_channels),
        "reference_cos": ("reference", half),
        "reference_sin": ("reference", half),
        "reference_order": ("reference",),
        "reference_last": ("reference",),
    }
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=states),),
        example={"batch": 2, "sequence": 7, "height": 4 * pixels, "width": 6 * pixels, "reference": 11},
        sizes=dict.fromkeys(("height", "width"), DimSpec(multiple_of=SLOT * pixels)),
        # Without other images, engines of one size lack their inputs.
        usual={"sequence": tokens, "height": SIDE * pixels, "width": SIDE * pixels, "reference": 0},
        wrapper="diffoundry.exporter.components.qwen_image_21_transformer_module:QwenImage21Module",
    )
