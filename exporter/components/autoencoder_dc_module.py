"""The halves of AutoencoderDC as traceable modules, whose attention is linear at every size."""

from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers.models import attention_processor
from diffusers.models.autoencoders import autoencoder_dc
from torch.nn import functional

from diffoundry.exporter.components.network_module import NetworkModule

__all__ = ["DCModule"]


class DCModule(NetworkModule):
    """Runs one half. diffusers: `AutoencoderDC.encode` and `decode`."""

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `NetworkModule.forward`."""
        with (
            mock.patch.object(attention_processor.SanaMultiscaleAttnProcessor2_0, "__call__", _attend),
            mock.patch.object(autoencoder_dc.DCDownBlock2d, "forward", _downsample),
        ):
            return super().forward(*tensors)


def _downsample(layer: Any, states: torch.Tensor) -> torch.Tensor:
    """Halve the size. diffusers: `DCDownBlock2d.forward`.

    The shortcut unshuffles four pixels to channels, and takes the mean of neighbouring channels. Here it is one
    convolution of constant weights: tracing shapes that are unshuffled takes ten times as long.
    """
    result: torch.Tensor = layer.conv(states)
    if layer.downsample:
        result = functional.pixel_unshuffle(result, layer.factor)
    if not layer.shortcut:
        return result
    kernel, groups = _mean_kernel(layer.conv.in_channels, layer.factor, layer.group_size)
    shortcut: torch.Tensor = functional.conv2d(states, kernel, stride=layer.factor, groups=groups)
    return result + shortcut


def _mean_kernel(channels: int, factor: int, size: int) -> tuple[torch.Tensor, int]:
    """Return the weights of a convolution that takes means of unshuffled channels, and its number of groups.

    Args:
        channels: Before pixels are unshuffled.
        factor: Pixels to a side of what becomes channels.
        size: Neighbouring channels of a mean.
    """
    pixels = factor**2
    places = np.arange(channels * pixels)
    grouped = pixels % size == 0  # each mean is of one channel
    kernel = np.zeros((channels * pixels // size, 1 if grouped else channels, pixels), np.float32)
    kernel[places // size, 0 if grouped else places // pixels, places % pixels] = 1.0 / size
    return torch.from_numpy(kernel.reshape(*kernel.shape[:2], factor, factor)), channels if grouped else 1


def _attend(_: Any, attention: Any, states: torch.Tensor) -> torch.Tensor:
    """Attend in linear time. diffusers: `SanaMultiscaleAttnProcessor2_0`.

    diffusers multiplies keys and queries first where there are few positions. The result is the same but for rounding,
    and the size is not known here.
    """
    batch, _, height, width = states.shape
    rows = states.movedim(1, -1)
    joined = torch.cat([attention.to_q(rows), attention.to_k(rows), attention.to_v(rows)], dim=3).movedim(-1, 1)
    scales = torch.cat([joined, *(block(joined) for block in attention.to_qkv_multiscale)], dim=1)
    heads = scales.reshape(batch, -1, 3 * attention.attention_head_dim, height * width)
    query, key, value = heads.chunk(3, dim=2)
    attended = attention.apply_linear_attention(attention.nonlinearity(query), attention.nonlinearity(key), value)
    result: torch.Tensor = attention.to_out(attended.reshape(batch, -1, height, width).movedim(1, -1))
    if attention.norm_type == "rms_norm":
        result = attention.norm_out(result).movedim(-1, 1)
    else:
        result = attention.norm_out(result.movedim(-1, 1))
    return result + states if attention.residual_connection else result
