"""UNet2DConditionModel whose self-attention may be perturbed: the names of its layers, and its wrapper."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer, integers, refuse
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel

__all__ = ["PerturbedUNet2DConditionModel", "self_attentions"]

_WITH, _WITHOUT = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
"""Blocks with transformers, and those without attention."""

_MIDDLE = "UNetMidBlock2DCrossAttn"


class PerturbedUNet2DConditionModel(UNet2DConditionModel):
    """The same with the input `IDENTITY_LAYERS`, which perturbs no layer unless it is fed.

    Attributes:
        layers: Names of its self-attentions in diffusers, in the order of that input.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: As `UNet2DConditionModel`.
            ConfigError: As there, or a block has attention of another kind.
        """
        super().__init__(session)
        self.layers = self_attentions(session.bundle.config(self.component), f"{self.component}/config.json")

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`."""
        none = np.zeros((len(sample), len(self.layers)), np.float32)
        return super().__call__(sample, timestep, {IDENTITY_LAYERS: none, **conditioning})


def self_attentions(config: Mapping[str, Any], subject: str) -> tuple[str, ...]:
    """Return the names of the self-attentions of a UNet, in the order in which they run.

    diffusers: the modules `attn1` of `UNet2DConditionModel`.

    Args:
        config: Its config.json.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A block has attention of another kind, or a field is damaged.
    """
    for field in ("only_cross_attention", "dual_cross_attention"):
        if config.get(field) not in (None, False):
            raise refuse(subject, field, config[field], "false, for perturbed attention")
    down = _blocks(config, "down_block_types", (*[_WITH[0]] * 3, _WITHOUT[0]), subject)
    up = _blocks(config, "up_block_types", (_WITHOUT[1], *[_WITH[1]] * 3), subject)
    layers = _of_levels(config, "layers_per_block", 2, len(down), subject)
    depths = _depths(config, "transformer_layers_per_block", len(down), subject)
    above = list(reversed(depths))
    if config.get("reverse_transformer_layers_per_block") is not None:
        above = _depths(config, "reverse_transformer_layers_per_block", len(down), subject)
    middle = config.get("mid_block_type", _MIDDLE)
    if middle not in (None, _MIDDLE):
        raise refuse(subject, "mid_block_type", middle, f"{_MIDDLE!r} or null, for perturbed attention")
    ways = (
        ("down_blocks", down, layers, depths),
        ("up_blocks", up, [count + 1 for count in reversed(layers)], above),
    )
    first, last = (list(_names(*way)) for way in ways)
    deepest = depths[-1][:1] if middle else ()
    between = [f"mid_block.attentions.0.transformer_blocks.{number}" for count in deepest for number in range(count)]
    return tuple(f"{name}.attn1" for name in (*first, *between, *last))


def _names(way: str, blocks: Sequence[str], layers: Sequence[int], depths: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Yield the names of the transformer blocks of a way down or up."""
    for level, (block, count, depth) in enumerate(zip(blocks, layers, depths, strict=True)):
        for layer in range(count if block in _WITH else 0):
            for number in range(depth[layer] if len(depth) > 1 else depth[0]):
                yield f"{way}.{level}.attentions.{layer}.transformer_blocks.{number}"


def _blocks(config: Mapping[str, Any], field: str, usual: tuple[str, ...], subject: str) -> tuple[str, ...]:
    blocks = config.get(field, usual)
    if not isinstance(blocks, list | tuple) or not blocks or any(block not in (*_WITH, *_WITHOUT) for block in blocks):
        raise refuse(subject, field, blocks, f"names among {', '.join((*_WITH, *_WITHOUT))}, for perturbed attention")
    return tuple(blocks)


def _of_levels(config: Mapping[str, Any], field: str, usual: int, levels: int, subject: str) -> tuple[int, ...]:
    """Read one whole number for all levels, or one for each."""
    if not isinstance(config.get(field), list | tuple):
        return (integer(config, field, usual, subject=subject),) * levels
    found = integers(config, field, (), subject=subject)
    if len(found) != levels:
        raise refuse(subject, field, list(found), f"{levels} numbers, one for each level")
    return found


def _depths(config: Mapping[str, Any], field: str, levels: int, subject: str) -> list[tuple[int, ...]]:
    """Read the transformer blocks of each level: one number for all its layers, or one for each."""
    value = config.get(field)
    if not isinstance(value, list | tuple) or not any(isinstance(one, list | tuple) for one in value):
        return [(count,) for count in _of_levels(config, field, 1, levels, subject)]
    if len(value) != levels:
        raise refuse(subject, field, value, f"{levels} entries, one for each level")
    listed = [list(one) if isinstance(one, list | tuple) else [one] for one in value]
    return [integers({field: one}, field, (), subject=subject) for one in listed]
