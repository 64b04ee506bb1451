"""Adds the inputs and the output of attention control to the declaration of a UNet.

Hertz et al. 2022, Prompt-to-Prompt, https://arxiv.org/abs/2208.01626.
"""

from dataclasses import replace

from diffoundry.exporter.component import Component, Config
from diffoundry.runtime.bundle.dims import Size, parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import CheckpointError, ConfigError
from diffoundry.runtime.models.attention_control import (
    ATTENTION_MAPS,
    BASE_ROWS,
    CROSS_KEEP,
    CROSS_MAP,
    SELF_LIMIT,
)
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.sample_size import read_sample_size

__all__ = ["check_family", "map_level", "with_attention_control"]

FAMILY = "stable_diffusion"
"""Its one text encoder gives every token of a prompt one place in cross attention."""

_SIDE = 16
"""Side of the maps that Prompt-to-Prompt's local blend reads."""


def check_family(name: str) -> None:
    """Refuse a family whose attention cannot be edited.

    Raises:
        CheckpointError: As said.
    """
    if name != FAMILY:
        raise CheckpointError(
            f"--attention-control: got a checkpoint of the family {name!r}, expected one of Stable Diffusion 1.x or "
            f"2.x; leave the option out"
        )


def with_attention_control(component: Component, config: Config) -> Component:
    """Add the inputs and the output of `runtime.models.attention_control` to a UNet; return others as they are.

    Args:
        component: Any component.
        config: Its config.json.

    Raises:
        ConfigError: The UNet has no cross attention on its ways down and up.
    """
    if component.role != DENOISER:
        return component
    level = map_level(config)
    batch, _, height, width = component.inputs[0].shape
    sides = (_halved(str(side), level) for side in (height, width))
    return replace(
        component,
        inputs=(
            *component.inputs,
            TensorSpec(name=CROSS_MAP, dtype="float32", shape=(batch, "sequence", "sequence")),
            TensorSpec(name=CROSS_KEEP, dtype="float32", shape=(batch, "sequence")),
            TensorSpec(name=BASE_ROWS, dtype="int32", shape=(batch,)),
            TensorSpec(name=SELF_LIMIT, dtype="int32", shape=(1,)),
        ),
        outputs=(
            *component.outputs,
            TensorSpec(name=ATTENTION_MAPS, dtype="float32", shape=(batch, "sequence", *sides)),
        ),
        wrapper="diffoundry.exporter.components.attention_control_module:AttentionControlModule",
    )


def map_level(config: Config) -> int:
    """Return the level of a UNet whose cross attention is put out; its latents are halved so many times.

    It is the coarsest whose maps have at least 16 x 16 pixels at the checkpoint's own size, otherwise the finest. For
    Stable Diffusion 1 these are the maps of 16 x 16 pixels that the community pipeline `pipeline_prompt2prompt` reads.

    Raises:
        ConfigError: There is no cross attention on both ways.
    """
    down, up = (_blocks(config, name) for name in ("down_block_types", "up_block_types"))
    levels = sorted({i for i, block in enumerate(down) if _crosses(block)}
                    & {len(up) - 1 - i for i, block in enumerate(up) if _crosses(block)})  # fmt: skip
    if not levels:
        raise ConfigError(
            f"unet/config.json: field 'down_block_types': got {', '.join(down)}, expected a block with cross "
            f"attention, such as CrossAttnDownBlock2D, for --attention-control; leave the option out"
        )
    side = min(read_sample_size(config, 64, "unet/config.json") or (64, 64))
    return max((level for level in levels if side >> level >= _SIDE), default=levels[0])


def _blocks(config: Config, name: str) -> list[str]:
    usual = {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }
    blocks = config.get(name, usual[name])
    if not isinstance(blocks, list | tuple) or not all(isinstance(block, str) for block in blocks):
        raise ConfigError(f"unet/config.json: field {name!r}: got {blocks!r}, expected a list of names of blocks")
    return list(blocks)


def _crosses(block: str) -> bool:
    return "CrossAttn" in block


def _halved(side: str, level: int) -> str:
    """Name a side of the latents that is halved, rounded up, some times."""
    if level == 0:
        return side
    size = parse_size(side)
    return str(Size(size.symbol, size.divisor << level, up=True))
