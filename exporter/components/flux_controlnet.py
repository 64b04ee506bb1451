"""FluxControlNetModel: the inputs of FLUX.1's transformer and a control image to residuals of its blocks.

diffusers: `FluxControlNetModel`. Published ones are of InstantX and Shakker Labs, with one kind of control image or a
union of several, and of XLabs, which see pixels.
"""

from functools import partial
from typing import NamedTuple

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.controlnet_base import (
    common_number,
    controlnet_component,
    declare_controlnet,
    refuse_differences,
    refuse_other,
    residuals_of_blocks,
)
from diffoundry.exporter.components.latents import latent_dims, token_sides
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import integer, refuse
from diffoundry.runtime.models.controlnet import block_residual_name, is_controlnet, single_block_residual_name
from diffoundry.runtime.models.flux_controlnet import read_controlnet_layout, reads_pixels
from diffoundry.runtime.models.flux_transformer_2d import PATCH, SIDE, FluxLayout, read_layout

__all__ = ["ControlResiduals", "control_residuals", "flux_controlnet"]

_CLASS = "FluxControlNetModel"
_TRANSFORMER = "transformer"

_SHRINKS = 8
"""Pixels to a side of a feature of the pixels. diffusers: `input_hint_block` of `FluxControlNetModel`."""


class ControlResiduals(NamedTuple):
    """The residuals of ControlNets.

    Attributes:
        joint: Of the blocks that have text and image apart.
        single: Of the others.
        repeats: True if the former repeat over the blocks. diffusers: `controlnet_blocks_repeat`.
    """

    joint: tuple[TensorSpec, ...]
    single: tuple[TensorSpec, ...]
    repeats: bool


def flux_controlnet(name: str, *, tokens: int) -> ComponentKind:
    """Declare the ControlNet of this name: "controlnet", "controlnet_1" ...

    Args:
        name: As said.
        tokens: As in `flux_transformer`.
    """
    return declare_controlnet(name, _CLASS, partial(_describe, tokens))


def control_residuals(configs: Configs) -> ControlResiduals:
    """Describe the residuals that the transformer takes of a checkpoint's ControlNets; none without any.

    Each is added after several blocks: of 19 blocks and 5 residuals, the first one after the first four. diffusers:
    `interval_control` in `FluxTransformer2DModel.forward`.

    Raises:
        ConfigError: The ControlNets have different numbers of blocks, so that their residuals cannot be added, or some
            see pixels and some latents.
    """
    joint = common_number(configs, "num_layers", 19, "blocks")
    single = common_number(configs, "num_single_layers", 38, "single blocks")
    kinds = {name: reads_pixels(configs[name]) for name in configs if is_controlnet(name)}
    first = next(iter(kinds), "")
    for name, pixels in kinds.items():
        if pixels != kinds[first]:
            seen = {True: "pixels", False: "latents"}
            raise ConfigError(
                f"{name}/config.json: field 'conditioning_embedding_channels': got a ControlNet that sees "
                f"{seen[pixels]} of its image, but {first} sees {seen[kinds[first]]}; export a bundle for each"
            )
    channels = read_layout(configs[_TRANSFORMER], f"{_TRANSFORMER}/config.json").channels
    sides = token_sides(configs, PATCH)
    return ControlResiduals(
        joint=residuals_of_blocks(block_residual_name, joint, sides, channels),
        single=residuals_of_blocks(single_block_residual_name, single, sides, channels),
        repeats=kinds.get(first, False),
    )


def _describe(tokens: int, name: str, configs: Configs) -> Component:
    factor = parse_size(latent_dims(configs)[0]).divisor
    config, subject = configs[name], f"{name}/config.json"
    layout = read_controlnet_layout(config, subject)
    _check(name, configs, layout, factor)
    place, half = token_sides(configs, PATCH), sum(layout.axes) // 2
    modes = integer(config, "num_mode", None, subject=subject)
    residuals = control_residuals(configs)
    seen = ("batch", 3, "height", "width") if reads_pixels(config) else ("batch", *place, layout.in_channels)
    return controlnet_component(
        name,
        _CLASS,
        (*residuals.joint, *residuals.single),
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", *place, layout.in_channels)),
            TensorSpec(name="controlnet_cond", dtype="float32", shape=seen),
            # Between 0 and 1
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", layout.width)),
            TensorSpec(name="pooled_projections", dtype="float32", shape=("batch", layout.pooled_width)),
            TensorSpec(name="rotary_cos", dtype="float32", shape=(*place, half)),
            TensorSpec(name="rotary_sin", dtype="float32", shape=(*place, half)),
            *([TensorSpec(name="guidance", dtype="float32", shape=("batch",))] if layout.embeds_guidance else []),
            *([] if modes is None else [TensorSpec(name="controlnet_mode", dtype="int32", shape=(1,))]),
        ),
        example={"batch": 2, "sequence": 7, "height": 5 * factor * PATCH, "width": 6 * factor * PATCH},
        sizes=dict.fromkeys(("height", "width"), DimSpec(multiple_of=factor * PATCH)),
        usual={"sequence": tokens, "height": SIDE * factor, "width": SIDE * factor},
        wrapper="diffoundry.exporter.components.flux_controlnet_module:FluxControlNetModule",
    )


def _check(name: str, configs: Configs, layout: FluxLayout, factor: int) -> None:
    """Check that a ControlNet matches its transformer and its VAE.

    Raises:
        ConfigError: As said.
    """
    latent = read_integer(configs, "vae", "latent_channels", 4)
    other = read_layout(configs[_TRANSFORMER], f"{_TRANSFORMER}/config.json")
    owner = "the transformer has"
    fields = (
        ("in_channels", layout.in_channels, PATCH**2 * latent, "2 x 2 latents have"),
        ("num_attention_heads", layout.channels // sum(layout.axes), other.channels // sum(other.axes), owner),
        ("joint_attention_dim", layout.width, other.width, owner),
        ("pooled_projection_dim", layout.pooled_width, other.pooled_width, owner),
        ("axes_dims_rope", list(layout.axes), list(other.axes), owner),
    )
    refuse_differences(name, fields)
    if not reads_pixels(configs[name]):
        return
    subject = f"{name}/config.json"
    patch = integer(configs[name], "patch_size", 1, subject=subject)
    if patch * _SHRINKS != factor * PATCH:
        raise refuse_other(name, "patch_size", patch, f"2 x 2 latents are {factor * PATCH} pixels wide")
    channels = integer(configs[name], "conditioning_embedding_channels", 1, subject=subject)
    if channels * patch**2 != layout.in_channels:
        raise refuse(subject, "conditioning_embedding_channels", channels, f"{layout.in_channels // patch**2}")
