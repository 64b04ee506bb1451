"""SanaTransformer2DModel and SanaControlNetModel: noisy latents, a timestep and a prompt to the velocity.

Xie et al. 2024, https://arxiv.org/abs/2410.10629; Sana-Sprint: Chen et al. 2025, https://arxiv.org/abs/2503.09641.
"""

from functools import partial
from typing import Any

from diffoundry.exporter.component import Component, ComponentKind, Configs
from diffoundry.exporter.components.latents import check_latent_channels, latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.controlnet import block_residual_name, is_controlnet
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.roles import CONTROLNET, DENOISER
from diffoundry.runtime.models.sana_transformer_2d import SanaLayout, read_layout

__all__ = ["sana_controlnet", "sana_transformer"]

_CLASS, _CONTROLNET_CLASS = "SanaTransformer2DModel", "SanaControlNetModel"
_SOURCE = "transformer"
_MODULES = "diffoundry.exporter.components.sana_transformer_module"


def sana_transformer(tokens: int, *, guidance: bool = False, perturbed: bool = False) -> ComponentKind:
    """Declare the denoiser of Sana.

    Args:
        tokens: Tokens of a prompt by default.
        guidance: True if its pipeline embeds the guidance scale.
        perturbed: True if its pipeline perturbs the self-attention of layers.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=(f"diffusers:{_CLASS}",),
        describe=partial(_describe, tokens=tokens, guidance=guidance, perturbed=perturbed),
    )


def sana_controlnet(name: str, *, tokens: int) -> ComponentKind:
    """Declare the ControlNet of this name, "controlnet"; arguments as `sana_transformer`."""
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"diffusers:{_CONTROLNET_CLASS}",),
        describe=partial(_describe_controlnet, name=name, tokens=tokens),
    )


def _describe(configs: Configs, *, tokens: int, guidance: bool, perturbed: bool) -> Component:
    layout = read_layout(configs[_SOURCE], f"{_SOURCE}/config.json")
    check_latent_channels(configs, _SOURCE, layout.in_channels)
    if layout.embeds_guidance != guidance:
        expected = f"{str(guidance).lower()}, as {'Sana-Sprint' if guidance else 'Sana'} has it"
        raise refuse(f"{_SOURCE}/config.json", "guidance_embeds", layout.embeds_guidance, expected)
    scale = (TensorSpec(name="guidance", dtype="float32", shape=(1,)),) if guidance else ()
    identity = TensorSpec(name=IDENTITY_LAYERS, dtype="float32", shape=("batch", layout.layers))
    latents = ("batch", layout.out_channels, *latent_dims(configs))
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            *_inputs(configs, layout), *scale, *((identity,) if perturbed else ()),
            *_residuals(configs, layout, layout.layers - 1),
        ),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=latents),),
        wrapper=f"{_MODULES}:SanaModule",
        **_sizes(configs, layout, tokens),
    )  # fmt: skip


def _describe_controlnet(configs: Configs, *, name: str, tokens: int) -> Component:
    layout, transformer = (read_layout(configs[source], f"{source}/config.json") for source in (name, _SOURCE))
    for field in ("in_channels", "channels", "width", "patch_size"):
        found, other = getattr(layout, field), getattr(transformer, field)
        if found != other:
            raise ConfigError(
                f"{name}/config.json: got {found} as {field}, but the transformer has {other}; this ControlNet was "
                f"made for another kind of checkpoint"
            )
    condition = TensorSpec(
        name="controlnet_cond", dtype="float32", shape=("batch", layout.in_channels, *latent_dims(configs))
    )
    return Component(
        name=name,
        role=CONTROLNET,
        network=_CONTROLNET_CLASS,
        source=name,
        inputs=(*_inputs(configs, layout), condition),
        outputs=_residuals(configs, transformer, layout.layers),
        wrapper=f"{_MODULES}:SanaControlNetModule",
        **_sizes(configs, layout, tokens),
    )


def _inputs(configs: Configs, layout: SanaLayout) -> tuple[TensorSpec, ...]:
    """Describe the inputs that both networks have."""
    height, width = latent_dims(configs)
    row = ("batch", "sequence")
    inputs: list[tuple[str, tuple[Any, ...]]] = [
        ("hidden_states", ("batch", layout.in_channels, height, width)),
        # Also between the integers, and between 0 and 1.
        ("timestep", (1,)),
        ("encoder_hidden_states", (*row, layout.width)),
        ("encoder_attention_mask", row),
    ]
    if layout.scale is not None:
        sides, half = _patches(configs, layout), layout.channels // 2
        inputs += [("position_rows", (sides[0], half)), ("position_columns", (sides[1], half))]
    return tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in inputs)


def _residuals(configs: Configs, transformer: SanaLayout, most: int) -> tuple[TensorSpec, ...]:
    """Describe the residuals of a checkpoint's ControlNet, at most so many; none without one.

    Each is added to the input of a block: the first to that of the third.

    Raises:
        ConfigError: There are several ControlNets, which diffusers' pipeline does not take.
    """
    names = [name for name in configs if is_controlnet(name)]
    if not names:
        return ()
    if len(names) > 1:
        raise ConfigError(
            f"model_index.json: got {len(names)} ControlNets, expected one, as Sana takes; export a bundle for each"
        )
    blocks = read_layout(configs[names[0]], f"{names[0]}/config.json").layers
    shape = ("batch", *_patches(configs, transformer), transformer.channels)
    return tuple(
        TensorSpec(name=block_residual_name(index), dtype="float32", shape=shape) for index in range(min(blocks, most))
    )


def _patches(configs: Configs, layout: SanaLayout) -> tuple[str, str]:
    """Return height and width in patches as symbols of the image's."""
    height, width = (
        f"{size.symbol}/{size.divisor * layout.patch_size}" for size in map(parse_size, latent_dims(configs))
    )
    return height, width


def _sizes(configs: Configs, layout: SanaLayout, tokens: int) -> dict[str, Any]:
    """Return the sizes of an example, of images, and those that engines for one size have."""
    height, width = latent_dims(configs)
    patch = layout.patch_size
    pixels = patch * parse_size(height).divisor
    return {
        "example": {
            "batch": 2, "sequence": 7, height: 5 * patch, width: 7 * patch,
            "height": 5 * pixels, "width": 7 * pixels,
        },
        "sizes": dict.fromkeys(("height", "width"), DimSpec(multiple_of=pixels)),
        "usual": {"sequence": tokens},
    }  # fmt: skip
