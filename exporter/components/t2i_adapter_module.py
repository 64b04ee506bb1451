"""Torch module that is traced for a T2I-Adapter: its pooling rounds up for every size."""

from typing import Any

import torch
from torch import nn

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.network_module import NetworkModule

__all__ = ["T2IAdapterModule"]


class T2IAdapterModule(NetworkModule):
    """A T2IAdapter whose average pooling has no windows that reach beyond the image."""

    def __init__(self, network: torch.nn.Module, component: Component) -> None:
        super().__init__(network, component)
        adapter: Any = network.adapter
        blocks = adapter.body
        for block in blocks:
            if isinstance(block.downsample, nn.AvgPool2d):
                block.downsample = _CeilPool()


class _CeilPool(nn.Module):
    """The mean of 2 x 2 values; at an odd border the mean of those that exist. torch: `AvgPool2d(ceil_mode=True)`.

    Engines divide differently at windows that reach beyond the border. Repeating the border gives the same mean.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve height and width, rounded up."""
        return nn.functional.avg_pool2d(nn.functional.pad(x, (0, 1, 0, 1), mode="replicate"), kernel_size=2)
