"""ZImageControlNetModel: the inputs of Z-Image's transformer and a control image to residuals of its blocks."""

from functools import partial
from typing import Any

from diffoundry.exporter.component import Component, ComponentKind, Configs
from diffoundry.exporter.components.controlnet_base import (
    controlnet_component,
    declare_controlnet,
    only_controlnet,
    refuse_other,
)
from diffoundry.exporter.components.latents import latent_dims, token_sides
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.z_image_controlnet import read_control_layout, residual_names
from diffoundry.runtime.models.z_image_transformer_2d import (
    PATCH,
    PENDING,
    SIDE,
    TOKEN_MULTIPLE,
    ZImageLayout,
    read_layout,
)

__all__ = ["control_residuals", "network_inputs", "network_sizes", "z_image_controlnet"]

_CLASS = "ZImageControlNetModel"
_TRANSFORMER = "transformer"


def z_image_controlnet(name: str, *, tokens: int) -> ComponentKind:
    """Declare the ControlNet of this name: "controlnet".

    Args:
        name: As said.
        tokens: As in `z_image_transformer`.
    """
    return declare_controlnet(name, _CLASS, partial(_describe, tokens))


def network_inputs(configs: Configs) -> tuple[TensorSpec, ...]:
    """Describe the inputs that the transformer and its ControlNet have in common."""
    layout, half = _layout(configs), sum(_layout(configs).axes) // 2
    grid, row = ("batch", *token_sides(configs, PATCH)), ("batch", "sequence")
    shapes: dict[str, tuple[int | str, ...]] = {
        "hidden_states": (*grid, layout.token),
        "timestep": (1,),  # between 0 and 1
        "encoder_hidden_states": (*row, layout.text_width),
        "encoder_attention_mask": row,
        "encoder_token_mask": row,
        "rotary_cos": (*grid, half),
        "rotary_sin": (*grid, half),
        "text_rotary_cos": ("sequence", half),
        "text_rotary_sin": ("sequence", half),
        "padding_mask": (PENDING,),
    }
    return tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())


def network_sizes(configs: Configs, tokens: int) -> dict[str, Any]:
    """Return the sizes of an example, of images, and those that engines for one size have.

    Args:
        configs: Of the checkpoint.
        tokens: As in `z_image_transformer`.
    """
    factor = parse_size(latent_dims(configs)[0]).divisor
    pixels, lengths = factor * PATCH, _layout(configs).lengths[1:]
    return {
        "example": {"batch": 2, "sequence": TOKEN_MULTIPLE, "height": 5 * pixels, "width": 6 * pixels},
        "sizes": {
            name: DimSpec(multiple_of=pixels, max=length * pixels)
            for name, length in zip(("height", "width"), lengths, strict=True)
        },
        "usual": {"sequence": tokens, "height": SIDE * factor, "width": SIDE * factor},
    }


def control_residuals(configs: Configs) -> tuple[TensorSpec, ...]:
    """Describe the residuals that the transformer takes of a checkpoint's ControlNet; none without one.

    Raises:
        ConfigError: There are several ControlNets, which diffusers refuses, or it was made for another transformer.
    """
    name = only_controlnet(configs, "Z-Image")
    if name is None:
        return ()
    layout = read_control_layout(configs[name], f"{name}/config.json")
    shapes: tuple[tuple[int | str, ...], ...] = (token_sides(configs, PATCH), (PENDING,), ("sequence",))
    return tuple(
        TensorSpec(name=name, dtype="float32", shape=("batch", *shape, layout.width))
        for place in layout.places
        for name, shape in zip(residual_names(place), shapes, strict=True)
    )


def _layout(configs: Configs) -> ZImageLayout:
    return read_layout(configs[_TRANSFORMER], f"{_TRANSFORMER}/config.json")


def _describe(tokens: int, name: str, configs: Configs) -> Component:
    _check(name, configs)
    channels = read_control_layout(configs[name], f"{name}/config.json").channels
    condition = ("batch", *token_sides(configs, PATCH), PATCH**2 * channels)
    return controlnet_component(
        name,
        _CLASS,
        control_residuals(configs),
        keywords={"timestep": "t", "controlnet_cond": "control_context"},
        inputs=(
            *network_inputs(configs),
            TensorSpec(name="controlnet_cond", dtype="float32", shape=condition),
            TensorSpec(name="conditioning_scale", dtype="float32", shape=(1,)),
        ),
        wrapper="diffoundry.exporter.components.z_image_controlnet_module:ZImageControlNetModule",
        **network_sizes(configs, tokens),
    )


def _check(name: str, configs: Configs) -> None:
    """Check that a ControlNet matches its transformer.

    Raises:
        ConfigError: As said.
    """
    own, other, latents = configs[name], configs[_TRANSFORMER], _layout(configs).channels
    for field, default, minimum in (("dim", 3840, 1), ("n_heads", 30, 1), ("n_refiner_layers", 2, 0)):
        found, expected = (
            integer(config, field, default, subject=f"{source}/config.json", minimum=minimum)
            for config, source in ((own, name), (other, _TRANSFORMER))
        )
        if found != expected:
            raise refuse_other(name, field, found, f"the transformer has {expected}")
    layout = read_control_layout(own, f"{name}/config.json")
    if layout.channels not in (latents, 2 * latents + 1):
        raise refuse_other(
            name, "control_in_dim", layout.channels, f"latents have {latents}, and {2 * latents + 1} with a mask and "
            f"the latents of a kept part"
        )  # fmt: skip
    most = {"control_layers_places": ("n_layers", 30, layout.places)}
    most |= {"control_refiner_layers_places": ("n_refiner_layers", 2, layout.refiner_places)}
    for field, (counted, default, places) in most.items():
        blocks = integer(other, counted, default, subject=f"{_TRANSFORMER}/config.json", minimum=0)
        if any(place >= blocks for place in places):
            raise refuse_other(name, field, list(places), f"the transformer has {blocks} blocks")
