"""SD3ControlNetModel: the inputs of Stable Diffusion 3's transformer and control latents to residuals of its blocks.

diffusers: `SD3ControlNetModel`. Published ones are of InstantX, of Alimama for inpainting, and of Stability AI for 3.5.
"""

from functools import partial
from typing import Any

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.controlnet_base import (
    common_number,
    declare_controlnet,
    refuse_other,
    residuals_of_blocks,
)
from diffoundry.exporter.components.latents import latent_dims, token_sides
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import MAX_SIDE, flag, integer, refuse
from diffoundry.runtime.models.controlnet import block_residual_name
from diffoundry.runtime.models.roles import CONTROLNET

__all__ = ["block_residuals", "prompt_rows", "sd3_controlnet"]

_CLASS = "SD3ControlNetModel"

_TRANSFORMER = "transformer"

_SAME = (
    ("in_channels", 16),
    ("patch_size", 2),
    ("num_attention_heads", 18),
    ("attention_head_dim", 64),
    ("joint_attention_dim", 4096),
    ("pooled_projection_dim", 2048),
)
"""Fields that a ControlNet has in common with its transformer, and diffusers' defaults."""


def sd3_controlnet(name: str, *, tokens: int) -> ComponentKind:
    """Declare the ControlNet of this name: "controlnet", "controlnet_1" ...

    Args:
        name: As said.
        tokens: As in `sd3_transformer`.
    """
    return declare_controlnet(name, _CLASS, partial(_describe, tokens))


def block_residuals(configs: Configs) -> tuple[TensorSpec, ...]:
    """Describe the residuals that the transformer takes of a checkpoint's ControlNets; none without any.

    Each is added after several blocks: of 24 blocks and 6 residuals, the first one after the first four. diffusers:
    `interval_control` in `SD3Transformer2DModel.forward`.

    Raises:
        ConfigError: The ControlNets have different numbers of blocks, so that their residuals cannot be added.
    """
    count = common_number(configs, "num_layers", 18, "blocks")
    sides = token_sides(configs, read_integer(configs, _TRANSFORMER, "patch_size", 2))
    channels = read_integer(configs, _TRANSFORMER, "num_attention_heads", 18)
    channels *= read_integer(configs, _TRANSFORMER, "attention_head_dim", 64)
    return residuals_of_blocks(block_residual_name, count, sides, channels)


def prompt_rows(configs: Configs, tokens: int) -> int:
    """Return the rows of a prompt: tokens of CLIP, as many as its text encoder has positions, then those of T5."""
    return read_integer(configs, "text_encoder", "max_position_embeddings", 77) + tokens


def _describe(tokens: int, name: str, configs: Configs) -> Component:
    _check(name, configs)
    height, width = latent_dims(configs)
    factor = parse_size(height).divisor
    config, patch = configs[name], read_integer(configs, name, "patch_size", 2)
    latent = read_integer(configs, name, "in_channels", 16)
    joint = config.get("joint_attention_dim", 4096)
    text = TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", joint or 1))
    outputs = block_residuals(configs)
    return Component(
        name=name,
        role=CONTROLNET,
        network=_CLASS,
        source=name,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", latent, height, width)),
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            *([text] if joint else []),
            TensorSpec(
                name="pooled_projections",
                dtype="float32",
                shape=("batch", read_integer(configs, name, "pooled_projection_dim", 2048)),
            ),
            TensorSpec(
                name="controlnet_cond",
                dtype="float32",
                shape=("batch", latent + _extra_channels(name, configs), height, width),
            ),
        ),
        outputs=outputs,
        example={
            "batch": 2, "sequence": 7, height: 5 * patch, width: 7 * patch,
            "height": 5 * patch * factor, "width": 7 * patch * factor,
        },
        call=Call(
            results={spec.name: f"controlnet_block_samples.{index}" for index, spec in enumerate(outputs)},
        ),
        sizes=_sizes(config, name, patch * factor),
        usual={"sequence": prompt_rows(configs, tokens)} if joint else {},
        wrapper="diffoundry.exporter.components.sd3_transformer_module:SD3ControlNetModule",
    )  # fmt: skip


def _sizes(config: Any, name: str, step: int) -> dict[str, DimSpec]:
    """Return the sizes in pixels for which a ControlNet's own table has positions."""
    subject = f"{name}/config.json"
    own = flag(config, "use_pos_embed", default=True, subject=subject) and config.get("pos_embed_type", "sincos")
    positions = integer(config, "pos_embed_max_size", 96, subject=subject, maximum=MAX_SIDE) if own else None
    sides = DimSpec(max=None if positions is None else positions * step, multiple_of=step)
    return {"height": sides, "width": sides}


def _extra_channels(name: str, configs: Configs) -> int:
    """Read the channels of the condition besides the latents of the image: none, or a mask.

    Raises:
        ConfigError: More, which no pipeline of diffusers feeds.
    """
    extra = configs[name].get("extra_conditioning_channels", 0)
    if extra not in (0, 1):
        raise refuse(f"{name}/config.json", "extra_conditioning_channels", extra, "0, or 1 for a mask")
    return int(extra)


def _check(name: str, configs: Configs) -> None:
    """Check that a ControlNet matches its transformer."""
    latent = read_integer(configs, "vae", "latent_channels", 4)
    for field, default in _SAME:
        if field == "joint_attention_dim" and configs[name].get(field, default) is None:
            continue  # it reads no text
        found = read_integer(configs, name, field, default)
        other = read_integer(configs, _TRANSFORMER, field, default)
        owner = "the transformer has"
        if field == "in_channels":  # it sees latents alone, also beside a transformer for inpainting
            other, owner = latent, "the VAE's latents have"
        if found != other:
            raise refuse_other(name, field, found, f"{owner} {other}")
