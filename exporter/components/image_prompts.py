"""Interface between IP-Adapters and denoisers: cross attentions that get image prompts, and the inputs for them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from diffoundry.exporter.component import Config, Configs, read_integer, read_levels
from diffoundry.exporter.components.residuals import UNET_CHANNELS, layers_of_levels, level_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.image_projection import embeds_name, is_ip_adapter, mask_name, scale_name

__all__ = [
    "AttentionLayer",
    "block_prompt_inputs",
    "cross_attention_layers",
    "image_prompt_inputs",
    "image_prompt_sizes",
    "prompt_blocks",
]

_ATTENDING = "CrossAttn"
"""In the names of blocks with cross attention."""

_DOWN = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
_MID = "UNetMidBlock2DCrossAttn"
"""Defaults of diffusers for the types of blocks."""


class AttentionLayer(NamedTuple):
    """One cross attention of a UNet.

    Attributes:
        name: Path of its module.
        level: Level of the UNet, each half as large as the one before.
        width: Channels of the level.
    """

    name: str
    level: int
    width: int


def cross_attention_layers(config: Config) -> tuple[AttentionLayer, ...]:
    """List the cross attentions in the order of diffusers' `attn_processors`: first half, second half, middle.

    Args:
        config: Config of the UNet.

    Raises:
        ConfigError: A field is damaged.
    """
    configs = {"unet": config}
    widths = read_levels(configs, "unet", "block_out_channels", UNET_CHANNELS)
    layers, last = layers_of_levels(configs, "unet"), len(widths) - 1
    blocks = _transformer_blocks(config, len(widths))
    upwards: Any = config.get("reverse_transformer_layers_per_block") or blocks[::-1]
    down, up = (_types(config, key, default, len(widths)) for key, default in (("down", _DOWN), ("up", _UP)))
    found = []
    for number, kind in enumerate(down):
        if _ATTENDING in kind:
            found += _block(f"down_blocks.{number}", layers[number], blocks[number], number, widths)
    for number, kind in enumerate(up):
        if _ATTENDING in kind:
            level = last - number
            found += _block(f"up_blocks.{number}", layers[level] + 1, upwards[number], level, widths)
    if config.get("mid_block_type", _MID) == _MID:
        found += _block("mid_block", 1, blocks[-1], last, widths)
    return tuple(found)


def image_prompt_inputs(configs: Configs, source: str) -> tuple[TensorSpec, ...]:
    """Describe the denoiser's inputs for image prompts, in a checkpoint that has IP-Adapters."""
    adapters = [name for name in configs if is_ip_adapter(name)]
    if not adapters:
        return ()
    layers = cross_attention_layers(configs[source])
    levels = sorted({layer.level for layer in layers})
    inputs: list[TensorSpec] = []
    for index, name in enumerate(adapters):
        width = read_integer(configs, name, "cross_attention_dim", None)
        prompts = _prompts(index)
        shapes = {
            embeds_name(index): ("batch", prompts, _tokens(index), width),
            scale_name(index): ("batch", len(layers), prompts),
            **{mask_name(index, level): ("batch", prompts, *level_size(configs, level)) for level in levels},
        }
        inputs += [TensorSpec(name=key, dtype="float32", shape=shape) for key, shape in shapes.items()]
    return tuple(inputs)


def prompt_blocks(config: Config) -> tuple[str, ...]:
    """List the blocks of FLUX.1's transformer that take image prompts, those with two streams."""
    count = read_integer({"transformer": config}, "transformer", "num_layers", 19)
    return tuple(f"transformer_blocks.{number}" for number in range(count))


def block_prompt_inputs(configs: Configs, source: str) -> tuple[TensorSpec, ...]:
    """Describe the inputs of FLUX.1's transformer for image prompts, which have no masks."""
    adapters = [name for name in configs if is_ip_adapter(name)]
    blocks = len(prompt_blocks(configs[source]))
    shapes: dict[str, tuple[str | int, ...]] = {}
    for index, name in enumerate(adapters):
        width = read_integer(configs, name, "cross_attention_dim", None)
        shapes |= {embeds_name(index): ("batch", 1, _tokens(index), width), scale_name(index): ("batch", blocks, 1)}
    return tuple(TensorSpec(name=key, dtype="float32", shape=shape) for key, shape in shapes.items())


def image_prompt_sizes(configs: Configs) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the sizes of the symbols of `image_prompt_inputs`: while tracing, and for engines of one size alone."""
    adapters = [name for name in configs if is_ip_adapter(name)]
    example: dict[str, int] = {}
    usual: dict[str, int] = {}
    for index, name in enumerate(adapters):
        example |= {_prompts(index): 2, _tokens(index): 3}
        usual |= {_prompts(index): 1, _tokens(index): read_integer(configs, name, "num_image_text_embeds", None)}
    return example, usual


def _prompts(index: int) -> str:
    """Symbol for the image prompts of an IP-Adapter that are attended to one by one."""
    return f"image_prompts_{index}"


def _tokens(index: int) -> str:
    return f"image_tokens_{index}"


def _block(name: str, attentions: int, blocks: int, level: int, widths: tuple[int, ...]) -> list[AttentionLayer]:
    return [
        AttentionLayer(f"{name}.attentions.{number}.transformer_blocks.{block}.attn2", level, widths[level])
        for number in range(attentions)
        for block in range(blocks)
    ]


def _types(config: Config, half: str, default: tuple[str, ...], count: int) -> list[str]:
    key = f"{half}_block_types"
    types: Any = config.get(key, list(default))
    if not isinstance(types, list | tuple) or len(types) != count or not all(isinstance(kind, str) for kind in types):
        raise refuse("unet/config.json", key, types, f"{count} names of blocks")
    return list(types)


def _transformer_blocks(config: Config, count: int) -> list[int]:
    """Read `transformer_layers_per_block` as one number per level."""
    key = "transformer_layers_per_block"
    if not isinstance(config.get(key, 1), list | tuple):
        return [read_integer({"unet": config}, "unet", key, 1)] * count
    blocks = list(read_levels({"unet": config}, "unet", key, ()))
    if len(blocks) != count:
        raise refuse("unet/config.json", key, blocks, f"one number, or one for {count} levels")
    return blocks
