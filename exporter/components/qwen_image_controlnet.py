"""QwenImageControlNetModel: the inputs of Qwen-Image's transformer and a control image to residuals of its blocks."""

from dataclasses import replace
from functools import partial
from typing import Any

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.controlnet_base import (
    common_number,
    controlnet_component,
    declare_controlnet,
    only_controlnet,
    refuse_differences,
    residuals_of_blocks,
)
from diffoundry.exporter.components.latents import latent_dims, token_sides
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.models.controlnet import block_residual_name
from diffoundry.runtime.models.flux_transformer_2d import PATCH, SIDE
from diffoundry.runtime.models.qwen_image_controlnet import mask_channels
from diffoundry.runtime.models.qwen_image_transformer_2d import QwenImageLayout, read_layout

__all__ = ["control_residuals", "network_inputs", "network_sizes", "qwen_image_controlnet"]

_CLASS = "QwenImageControlNetModel"
_TRANSFORMER = "transformer"


def qwen_image_controlnet(name: str, *, tokens: int) -> ComponentKind:
    """Declare the ControlNet of this name: "controlnet".

    Args:
        name: As said.
        tokens: As in `qwen_image_transformer`.
    """
    return declare_controlnet(name, _CLASS, partial(_describe, tokens))


def control_residuals(configs: Configs) -> tuple[TensorSpec, ...]:
    """Describe the residuals that the transformer takes of a checkpoint's ControlNet; none without one.

    Each is added after several blocks. diffusers: `interval_control` in `QwenImageTransformer2DModel.forward`.

    Raises:
        ConfigError: There are several ControlNets, which diffusers refuses.
    """
    only_controlnet(configs, "Qwen-Image")
    channels = read_layout(configs[_TRANSFORMER], f"{_TRANSFORMER}/config.json").channels
    count = common_number(configs, "num_layers", 60, "blocks")
    return residuals_of_blocks(block_residual_name, count, token_sides(configs, PATCH), channels)


def network_inputs(configs: Configs, *, layered: bool = False) -> tuple[TensorSpec, ...]:
    """Describe the inputs that the transformer and its ControlNet have in common; tokens of the image come first.

    Args:
        configs: Of the checkpoint.
        layered: As in `read_layout`; "rows" are then those of all layers.
    """
    layout = read_layout(configs[_TRANSFORMER], f"{_TRANSFORMER}/config.json", layered=layered)
    half, grid, row = sum(layout.axes) // 2, token_sides(configs, PATCH), ("batch", "sequence")
    if layered:
        grid = ("rows", grid[1])
    shapes: dict[str, tuple[int | str, ...]] = {
        "hidden_states": ("batch", *grid, layout.in_channels),
        "timestep": (1,),  # between 0 and 1
        "encoder_hidden_states": (*row, layout.width),
        "encoder_hidden_states_mask": row,
        "rotary_cos": (*grid, half),
        "rotary_sin": (*grid, half),
        "text_cos": ("sequence", half),
        "text_sin": ("sequence", half),
    }
    return tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())


def network_sizes(configs: Configs, tokens: int) -> dict[str, Any]:
    """Return the sizes of an example, of images, and those that engines for one size have.

    Args:
        configs: Of the checkpoint.
        tokens: As in `qwen_image_transformer`.
    """
    factor = parse_size(latent_dims(configs)[0]).divisor
    pixels = factor * PATCH
    return {
        "example": {"batch": 2, "sequence": 7, "height": 5 * pixels, "width": 6 * pixels},
        "sizes": dict.fromkeys(("height", "width"), DimSpec(multiple_of=pixels)),
        "usual": {"sequence": tokens, "height": SIDE * factor, "width": SIDE * factor},
    }


def _describe(tokens: int, name: str, configs: Configs) -> Component:
    layout = read_layout(configs[name], f"{name}/config.json")
    _check(name, configs, layout)
    states, *others = network_inputs(configs)
    channels = layout.in_channels + mask_channels(configs[name], f"{name}/config.json")
    condition = replace(states, name="controlnet_cond", shape=(*states.shape[:-1], channels))
    return controlnet_component(
        name,
        _CLASS,
        control_residuals(configs),
        inputs=(states, condition, *others),
        wrapper="diffoundry.exporter.components.qwen_image_controlnet_module:QwenImageControlNetModule",
        **network_sizes(configs, tokens),
    )


def _check(name: str, configs: Configs, layout: QwenImageLayout) -> None:
    """Check that a ControlNet matches its transformer and its VAE.

    Raises:
        ConfigError: As said.
    """
    other = read_layout(configs[_TRANSFORMER], f"{_TRANSFORMER}/config.json")
    latent = PATCH**2 * read_integer(configs, "vae", "z_dim", 16)
    owner, heads = "the transformer has", "num_attention_heads"
    fields = (
        ("in_channels", layout.in_channels, latent, "2 x 2 latents have"),
        (heads, layout.channels // sum(layout.axes), other.channels // sum(other.axes), owner),
        ("joint_attention_dim", layout.width, other.width, owner),
        ("axes_dims_rope", list(layout.axes), list(other.axes), owner),
    )
    refuse_differences(name, fields)
