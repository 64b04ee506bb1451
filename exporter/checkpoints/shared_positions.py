"""Gives ControlNets of Stable Diffusion 3 the patch embedding of their transformer, which some do not hold."""

from typing import Any, cast

import torch

from diffoundry.exporter.checkpoints.deferred_weights import deferred_weights
from diffoundry.exporter.checkpoints.weight_sources import WeightSource

__all__ = ["share_positions"]


def share_positions(controlnet: torch.nn.Module, source: WeightSource, module_class: str) -> None:
    """Copy the transformer's patch embedding into a ControlNet.

    diffusers: `SD3ControlNetModel._get_pos_embed_from_transformer`, which its pipelines call for networks with
    `use_pos_embed` off.

    Args:
        controlnet: Gets it.
        source: Weights of the transformer, of which only these are read.
        module_class: Of the transformer, "library:class".

    Raises:
        CheckpointError: The transformer's weights are missing or damaged.
    """
    transformer: Any = source.load(module_class, deferred=True)
    embed, weights = transformer.pos_embed, deferred_weights(transformer)
    for tensor in (*embed.parameters(), *embed.buffers()):
        tensor.data = weights.read(tensor)
    cast("Any", controlnet).pos_embed = embed
