"""The networks of Würstchen as traceable modules."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_common import AttnBlock, TimestepBlock
from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import ResBlockStageB

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.exporter.components.patch_convolution import patch_convolution
from diffoundry.runtime.models.wuerstchen import features_name

__all__ = ["WuerstchenDecoderModule", "WuerstchenPriorModule"]

_LEAST = 1e-3
"""Least deviation that the decoder predicts. diffusers: `eps` of `WuerstchenDiffNeXt.forward`."""


class WuerstchenPriorModule(NetworkModule):
    """Computes diffusers' `WuerstchenPrior.forward`, with attention as one operator."""

    def __init__(self, network: torch.nn.Module, component: Component) -> None:
        super().__init__(network, component)
        model: Any = network
        model.set_attn_processor(AttnProcessor2_0())

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        return {"out_sample": self.model(**keywords)}


class WuerstchenDecoderModule(NetworkModule):
    """Computes diffusers' `WuerstchenDiffNeXt.forward` on features that have the size of each level already."""

    def __init__(self, network: torch.nn.Module, component: Component) -> None:
        super().__init__(network, component)
        model: Any = network
        self.norm = model.embedding[2]
        self.patches = patch_convolution(model.embedding[1], model.config.c_in, model.config.patch_size)

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: features as large as those of each level that reads them."""
        sides = [side // network.config.patch_size for side in passed["x"].shape[2:]]
        resized = {}
        for level in _reading(network):
            size = [side // 2**level for side in sides]
            resized[features_name(level)] = torch.nn.functional.interpolate(
                passed["effnet"], size=size, mode="bicubic", antialias=True, align_corners=True
            )
        return resized

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        model: Any = self.model
        sample = keywords["x"]
        times, text = model.gen_r_embedding(keywords["r"]), model.gen_c_embeddings(keywords["clip"])
        count = len(model.down_blocks)
        below = [keywords.get(features_name(level)) for level in range(count)]
        features, levels = self.norm(self.patches(sample)), []
        for level, blocks in enumerate(model.down_blocks):
            read = self._map(level, below[level])
            features = _run_blocks(blocks, features, times, text, first=read, others=read)
            levels.append(features)
        for place, blocks in enumerate(model.up_blocks):
            level = count - 1 - place
            read = self._map(count + place, below[level])
            skipped = None if place == 0 else levels[level]
            features = _run_blocks(blocks, features, times, text, first=_join(skipped, read), others=read)
        mean, deviation = model.clf(features).chunk(2, dim=1)
        return {"out_sample": (sample - mean) / (deviation.sigmoid() * (1 - _LEAST * 2) + _LEAST)}

    def _map(self, index: int, features: torch.Tensor | None) -> torch.Tensor | None:
        """Return the features of a level as its blocks read them; None where they read none."""
        mapper: Any = self.model.effnet_mappers[index]  # type: ignore[index]
        mapped: torch.Tensor | None = None if mapper is None else mapper(features)
        return mapped


def _reading(network: Any) -> list[int]:
    """List the levels that read what the prior made."""
    return [level for level, reads in enumerate(network.config.inject_effnet) if reads]


def _join(skipped: torch.Tensor | None, read: torch.Tensor | None) -> torch.Tensor | None:
    parts = [part for part in (skipped, read) if part is not None]
    return torch.cat(parts, dim=1) if parts else None


def _run_blocks(
    blocks: Any,
    features: torch.Tensor,
    times: torch.Tensor,
    text: torch.Tensor,
    *,
    first: torch.Tensor | None,
    others: torch.Tensor | None,
) -> torch.Tensor:
    """Run the blocks of a level.

    Args:
        blocks: Of one level, down or up.
        features: (B, C, h, w).
        times: Embedded timestep.
        text: Embedded prompts (B, tokens, D).
        first: Input beside the features of a residual block that is the first block of the level.
        others: Input beside the features of every other residual block.
    """
    for number, block in enumerate(blocks):
        if isinstance(block, ResBlockStageB):
            features = block(features, first if number == 0 else others)
        elif isinstance(block, AttnBlock):
            features = block(features, text)
        elif isinstance(block, TimestepBlock):
            features = block(features, times)
        else:
            features = block(features)
    return features
