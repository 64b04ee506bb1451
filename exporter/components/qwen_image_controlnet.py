"""QwenImageControlNetModel: the inputs of Qwen-Image's transformer and a control image to residuals of its blocks."""

from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.controlnet_base import (
    common_number,
    declare_controlnet,
    refuse_other,
    residuals_of_blocks,
)
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.controlnet import block_residual_name, is_controlnet
from diffoundry.runtime.models.flux_transformer_2d import PATCH, SIDE
from diffoundry.runtime.models.qwen_image_controlnet import mask_channels
from diffoundry.runtime.models.qwen_image_transformer_2d import QwenImageLayout, read_layout
from diffoundry.runtime.models.roles import CONTROLNET

__all__ = ["control_residuals", "qwen_image_controlnet"]

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
    names = [name for name in configs if is_controlnet(name)]
    if len(names) > 1:
        raise ConfigError(
            f"--controlnet: got {len(names)} ControlNets of Qwen-Image, expected one: diffusers runs no more; export a "
            f"bundle for each"
        )
    pixels = parse_size(latent_dims(configs)[0]).divisor * PATCH
    channels = read_layout(configs[_TRANSFORMER], f"{_TRANSFORMER}/config.json").channels
    count = common_number(configs, "num_layers", 60, "blocks")
    return residuals_of_blocks(block_residual_name, count, (f"height/{pixels}", f"width/{pixels}"), channels)


def _describe(tokens: int, name: str, configs: Configs) -> Component:
    factor = parse_size(latent_dims(configs)[0]).divisor
    layout = read_layout(configs[name], f"{name}/config.json")
    _check(name, configs, layout)
    pixels, half = factor * PATCH, sum(layout.axes) // 2
    place, row = (f"height/{pixels}", f"width/{pixels}"), ("batch", "sequence")
    states = ("batch", *place, layout.in_channels)
    condition = (*states[:-1], layout.in_channels + mask_channels(configs[name], f"{name}/config.json"))
    residuals = control_residuals(configs)
    return Component(
        name=name,
        role=CONTROLNET,
        network=_CLASS,
        source=name,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=states),
            TensorSpec(name="controlnet_cond", dtype="float32", shape=condition),
            # Between 0 and 1
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=(*row, layout.width)),
            TensorSpec(name="encoder_hidden_states_mask", dtype="float32", shape=row),
            TensorSpec(name="rotary_cos", dtype="float32", shape=(*place, half)),
            TensorSpec(name="rotary_sin", dtype="float32", shape=(*place, half)),
            TensorSpec(name="text_cos", dtype="float32", shape=("sequence", half)),
            TensorSpec(name="text_sin", dtype="float32", shape=("sequence", half)),
        ),
        outputs=residuals,
        example={"batch": 2, "sequence": 7, "height": 5 * pixels, "width": 6 * pixels},
        call=Call(results={spec.name: str(index) for index, spec in enumerate(residuals)}),
        sizes=dict.fromkeys(("height", "width"), DimSpec(multiple_of=pixels)),
        usual={"sequence": tokens, "height": SIDE * factor, "width": SIDE * factor},
        wrapper="diffoundry.exporter.components.qwen_image_controlnet_module:QwenImageControlNetModule",
    )


def _check(name: str, configs: Configs, layout: QwenImageLayout) -> None:
    """Check that a ControlNet matches its transformer and its VAE.

    Raises:
        ConfigError: As said.
    """
    other = read_layout(configs[_TRANSFORMER], f"{_TRANSFORMER}/config.json")
    latent = PATCH**2 * read_integer(configs, "vae", "z_dim", 16)
    for field, found, expected, owner in (
        ("in_channels", layout.in_channels, latent, "2 x 2 latents have"),
        (
            "num_attention_heads",
            layout.channels // sum(layout.axes),
            other.channels // sum(other.axes),
            "the transformer has",
        ),
        ("joint_attention_dim", layout.width, other.width, "the transformer has"),
        ("axes_dims_rope", list(layout.axes), list(other.axes), "the transformer has"),
    ):
        if found != expected:
            raise refuse_other(name, field, found, f"{owner} {expected}")
