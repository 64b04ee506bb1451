"""Flux2Transformer2DModel: tokens of noisy latents, a timestep and a prompt to the velocity for flow matching.

Black Forest Labs 2025, https://github.com/black-forest-labs/flux2.
"""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.causal_lm import read_causal_layout
from diffoundry.runtime.models.flux2_transformer_2d import SIDE, Flux2Layout, read_layout
from diffoundry.runtime.models.flux_transformer_2d import PATCH
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["flux2_transformer"]

_CLASS = "Flux2Transformer2DModel"
_SOURCE = "transformer"

_MODULE = "diffoundry.exporter.components.flux2_transformer_module:Flux2Module"
_KV_MODULE = "diffoundry.exporter.components.flux2_kv_transformer_module:Flux2KVModule"


def flux2_transformer(tokens: int, layers: int, *, guided: bool, apart: bool = False) -> ComponentKind:
    """Declare the denoiser of FLUX.2.

    Args:
        tokens: Tokens of a prompt by default.
        layers: Number of hidden states of the text encoder that lie side by side in a token of the prompt.
        guided: True if the pipeline passes the guidance scale to a network that takes it.
        apart: True if tokens of other images attend to themselves alone. Engines of one size see one such image.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=(f"diffusers:{_CLASS}",),
        describe=partial(_describe, tokens=tokens, layers=layers, guided=guided, apart=apart),
    )


def _describe(configs: Configs, *, tokens: int, layers: int, guided: bool, apart: bool) -> Component:
    layout = read_layout(configs[_SOURCE], f"{_SOURCE}/config.json")
    _check(configs, layout, layers)
    pixels = parse_size(latent_dims(configs)[0]).divisor * PATCH
    place = f"height/{pixels}", f"width/{pixels}"
    half = sum(layout.axes) // 2
    tables = (("rotary", place), ("text", ("sequence",)), ("reference", ("reference",)))
    guidance = (TensorSpec(name="guidance", dtype="float32", shape=("batch",)),)
    states = ("batch", *place, layout.in_channels)
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=states),
            # Between 0 and 1
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", layout.width)),
            TensorSpec(
                name="reference_hidden_states", dtype="float32", shape=("batch", "reference", layout.in_channels)
            ),
            *(
                TensorSpec(name=f"{name}_{table}", dtype="float32", shape=(*shape, half))
                for name, shape in tables
                for table in ("cos", "sin")
            ),
            *(guidance if guided and layout.embeds_guidance else ()),
        ),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=states),),
        example={"batch": 2, "sequence": 7, "height": 5 * pixels, "width": 6 * pixels, "reference": 11},
        sizes=dict.fromkeys(("height", "width"), DimSpec(multiple_of=pixels)),
        usual={
            "sequence": tokens, "height": SIDE * pixels, "width": SIDE * pixels,
            "reference": SIDE * SIDE if apart else 0,  # without any, engines of one size lack the inputs
        },
        wrapper=_KV_MODULE if apart else _MODULE,
    )  # fmt: skip


def _check(configs: Configs, layout: Flux2Layout, layers: int) -> None:
    """Refuse a network that does not fit the VAE or the text encoder.

    Raises:
        ConfigError: As said.
    """
    latent = read_integer(configs, "vae", "latent_channels", 32)
    text = read_causal_layout(configs["text_encoder"], "text_encoder/config.json").width
    for name, found, expected, reason in (
        ("in_channels", layout.in_channels, PATCH**2 * latent, "2 x 2 times the latent_channels of the VAE"),
        ("joint_attention_dim", layout.width, layers * text, f"{layers} times the hidden_size of the text encoder"),
    ):
        if found != expected:
            raise refuse(f"{_SOURCE}/config.json", name, found, f"{expected}, {reason}")
