"""Torch module that is traced for a UNet, with layers that are better for graphs where diffusers' are wasteful."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers.models import attention_processor, downsampling, upsampling
from torch.nn import functional

from diffoundry.exporter.components.network_module import NetworkModule

__all__ = ["UNetModule", "lean_layers"]

_prepare_mask = attention_processor.Attention.prepare_attention_mask


class UNetModule(NetworkModule):
    """Calls a UNet within `lean_layers`."""

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        with lean_layers():
            return super().run(**keywords)


@contextmanager
def lean_layers() -> Iterator[None]:
    """Within this context, some layers of diffusers compute the same numbers with smaller tensors.

    * `KDownsample2D` and `KUpsample2D` are depthwise convolutions. Their own kernels are dense, and zero but for the
      diagonal: 105 MB for 1280 channels.
    * So is `upfirdn2d_native`, which folds channels into the batch, with shapes of six dimensions.
    * Masks of attention have one head, which broadcasts. Their own are repeated for each.
    """
    with ExitStack() as stack:
        for owner, name, replacement in (
            (downsampling, "upfirdn2d_native", _upfirdn2d),
            (upsampling, "upfirdn2d_native", _upfirdn2d),
            (downsampling.KDownsample2D, "forward", _k_downsample),
            (upsampling.KUpsample2D, "forward", _k_upsample),
            (attention_processor.Attention, "prepare_attention_mask", _mask_of_one_head),
        ):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def _depthwise(kernel: torch.Tensor, channels: int) -> torch.Tensor:
    return kernel.expand(channels, 1, *kernel.shape).contiguous()


def _upfirdn2d(
    tensor: torch.Tensor, kernel: torch.Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
) -> torch.Tensor:
    """Insert zeros, pad, filter and drop samples; arguments as diffusers' `upfirdn2d_native`."""
    channels, size = tensor.shape[1], len(kernel)
    if up == 1:
        weight = _depthwise(kernel.flip(0, 1), channels)
        return functional.conv2d(functional.pad(tensor, (*pad, *pad)), weight, stride=down, groups=channels)
    # A transposed convolution is that filter on all positions: cut off what the padding does not reach.
    begin, end = size - 1 - pad[0], size - up - pad[1]
    assert down == 1, "no layer does both"
    assert begin == end >= 0, "diffusers pads so that the size is exactly `up` times the input's"
    return functional.conv_transpose2d(tensor, _depthwise(kernel, channels), stride=up, padding=begin, groups=channels)


def _k_downsample(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Halve the size; `layer` is a `KDownsample2D`."""
    padded = functional.pad(inputs, (layer.pad,) * 4, layer.pad_mode)
    channels = inputs.shape[1]
    return functional.conv2d(padded, _depthwise(layer.kernel.to(inputs), channels), stride=2, groups=channels)


def _k_upsample(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Double the size; `layer` is a `KUpsample2D`."""
    padded = functional.pad(inputs, ((layer.pad + 1) // 2,) * 4, layer.pad_mode)
    channels, padding = inputs.shape[1], layer.pad * 2 + 1
    weight = _depthwise(layer.kernel.to(inputs), channels)
    return functional.conv_transpose2d(padded, weight, stride=2, padding=padding, groups=channels)


def _mask_of_one_head(layer: Any, mask: torch.Tensor | None, length: int, batch: int, out_dim: int = 3) -> Any:
    """Pad a mask (B, 1, keys) as `Attention.prepare_attention_mask` does, and return it as (B, 1, 1, keys)."""
    if mask is None or out_dim != 4:
        return _prepare_mask(layer, mask, length, batch, out_dim)
    padded = functional.pad(mask, (0, length)) if mask.shape[-1] != length else mask
    return padded.unsqueeze(1)
