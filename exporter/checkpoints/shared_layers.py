"""Gives ControlNets of Z-Image the layers that they have of their transformer."""

import itertools
from typing import Any, cast

import torch

from diffoundry.exporter.checkpoints.deferred_weights import deferred_weights

__all__ = ["share_layers"]


def share_layers(controlnet: torch.nn.Module, transformer: torch.nn.Module, *, deferred: bool) -> None:
    """Let a ControlNet have the transformer's embeddings and refiners.

    diffusers: `ZImageControlNetModel.from_transformer`, which its pipelines call.

    Args:
        controlnet: Gets them.
        transformer: Loaded with `deferred`, so that none of its other layers takes memory.
        deferred: True reads their weights when they are asked for, False now.
    """
    weights = deferred_weights(transformer)
    cast("Any", type(controlnet)).from_transformer(controlnet, transformer)
    if deferred:
        deferred_weights(controlnet).join(weights)
        return
    for tensor in itertools.chain(controlnet.parameters(), controlnet.buffers()):
        if weights.defers(tensor):
            tensor.data = weights.read(tensor)
