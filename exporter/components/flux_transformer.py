"""FluxTransformer2DModel: tokens of noisy latents, a timestep and prompts to the velocity for flow matching.

Black Forest Labs 2024, https://github.com/black-forest-labs/flux. Chroma's network has the same blocks, a mask of the
prompt instead of a pooled vector, and one small network that computes every modulation from the timestep.
"""

from collections.abc import Callable
from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.flux_controlnet import control_residuals
from diffoundry.exporter.components.image_prompts import block_prompt_inputs, image_prompt_sizes
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.flux_transformer_2d import PATCH, SIDE, FluxLayout, read_layout
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["CHROMA", "flux_transformer"]

_FLUX, CHROMA = "FluxTransformer2DModel", "ChromaTransformer2DModel"
_SOURCE = "transformer"
_MODULES = {_FLUX: "flux_transformer_module:FluxModule", CHROMA: "chroma_transformer_module:ChromaModule"}
"""Class of diffusers to the module that is traced."""


def flux_transformer(
    tokens: int,
    joined: Callable[[int, int], int] = lambda _latent, _factor: 0,
    *,
    reference: bool = False,
    network: str = _FLUX,
) -> ComponentKind:
    """Declare the denoiser of FLUX.1 or Chroma.

    Args:
        tokens: Tokens of a prompt by default.
        joined: (channels of latents, pixels to a side of a latent) -> channels that are joined to the latents.
        reference: True if the network also sees the tokens of another image.
        network: Its class in diffusers.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=(f"diffusers:{network}",),
        describe=partial(_describe, tokens=tokens, joined=joined, reference=reference, network=network),
    )


def _describe(
    configs: Configs, *, tokens: int, joined: Callable[[int, int], int], reference: bool, network: str
) -> Component:
    factor = parse_size(latent_dims(configs)[0]).divisor
    layout = read_layout(configs[_SOURCE], f"{_SOURCE}/config.json")
    latent = read_integer(configs, "vae", "latent_channels", 4)
    _check(configs, layout, latent, joined(latent, factor), pooled=network == _FLUX)
    pixels = factor * PATCH
    place = f"height/{pixels}", f"width/{pixels}"
    half = sum(layout.axes) // 2
    other = (
        TensorSpec(name="reference_hidden_states", dtype="float32", shape=("batch", "reference", layout.in_channels)),
        TensorSpec(name="reference_cos", dtype="float32", shape=("reference", half)),
        TensorSpec(name="reference_sin", dtype="float32", shape=("reference", half)),
    )
    guidance = (TensorSpec(name="guidance", dtype="float32", shape=("batch",)),) if layout.embeds_guidance else ()
    pooled = TensorSpec(name="pooled_projections", dtype="float32", shape=("batch", layout.pooled_width))
    # Of the tokens of the prompt
    mask = TensorSpec(name="attention_mask", dtype="float32", shape=("batch", "sequence"))
    residuals, (example, usual) = control_residuals(configs), image_prompt_sizes(configs)
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=network,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", *place, layout.in_channels)),
            # Between 0 and 1
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", layout.width)),
            mask if network == CHROMA else pooled,
            TensorSpec(name="rotary_cos", dtype="float32", shape=(*place, half)),
            TensorSpec(name="rotary_sin", dtype="float32", shape=(*place, half)),
            *(other if reference else ()),
            *(guidance if network == _FLUX else ()),
            *residuals.joint,
            *residuals.single,
            *block_prompt_inputs(configs, _SOURCE),
        ),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=("batch", *place, layout.out_channels)),),
        example={"batch": 2, "sequence": 7, "height": 5 * pixels, "width": 6 * pixels, "reference": 11, **example},
        call=Call(options={"controlnet_blocks_repeat": True} if residuals.repeats else {}),
        sizes=dict.fromkeys(("height", "width"), DimSpec(multiple_of=pixels)),
        usual={
            "sequence": tokens, "height": SIDE * factor, "width": SIDE * factor,
            **({"reference": (SIDE // PATCH) ** 2} if reference else {}), **usual,
        },
        wrapper=f"diffoundry.exporter.components.{_MODULES[network]}",
    )  # fmt: skip


def _check(configs: Configs, layout: FluxLayout, latent: int, joined: int, *, pooled: bool) -> None:
    """Refuse a network that does not fit the VAE or the text encoders.

    Raises:
        ConfigError: As said.
    """
    subject = f"{_SOURCE}/config.json"
    width = read_integer(configs, "text_encoder", "hidden_size", 512) if pooled else layout.pooled_width
    channels = "2 x 2 times the latent_channels of the VAE"
    into = f"{channels} and the {joined} channels joined to them" if joined else channels
    for name, found, expected, reason in (
        ("in_channels", layout.in_channels, PATCH**2 * (latent + joined), into),
        ("out_channels", layout.out_channels, PATCH**2 * latent, channels),
        ("pooled_projection_dim", layout.pooled_width, width, "the hidden_size of the CLIP text encoder"),
    ):
        if found != expected:
            raise refuse(subject, name, found, f"{expected}, {reason}")
