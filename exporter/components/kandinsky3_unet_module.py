"""Kandinsky3UNet as a traceable module, whose result does not depend on how far a prompt is padded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers.models.unets.unet_kandinsky3 import Kandinsky3ConditionalGroupNorm as _Norm
from torch.nn import functional

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.unet_module import lean_layers

__all__ = ["Kandinsky3Module"]

_HIDDEN = -10000.0
"""Added to the scores of tokens that no one attends to. diffusers: `Kandinsky3UNet.forward`."""


class Kandinsky3Module(torch.nn.Module):
    """Predicts noise. diffusers: `Kandinsky3UNet.forward`.

    diffusers cuts the states of a prompt after its last token, and the timestep's embedding takes their mean over what
    is left. Engines of one number of tokens need padding there, which this mean leaves out.
    """

    def __init__(self, network: torch.nn.Module, _component: Component) -> None:
        super().__init__()
        self.network: Any = network
        channels = {layer.norm.num_channels for layer in network.modules() if isinstance(layer, _Norm)}
        self._affine = {count: (torch.ones(count), torch.zeros(count)) for count in channels}
        self._offset = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
    ) -> tuple[torch.Tensor]:
        """Predict noise.

        Args:
            sample: float32 (batch, channels, height, width).
            timestep: float32 (1,).
            encoder_hidden_states: float32 (batch, sequence, width).
            encoder_attention_mask: float32 (batch, sequence): 1 for a token, 0 for one that no one attends to, and -1
                for padding, which diffusers would have cut off.

        Returns:
            float32 (batch, channels, height, width).
        """
        network = self.network
        context = network.encoder_hid_proj(encoder_hidden_states)
        kept = (encoder_attention_mask + 1.0).clamp(0.0, 1.0).unsqueeze(-1)
        mean = (context * kept).sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True)
        hidden = ((1.0 - encoder_attention_mask) * _HIDDEN).unsqueeze(1)
        with lean_layers(), _lean_norms(self._affine, self._offset):
            time = network.time_embedding(network.time_proj(timestep))  # one row for all
            time = time + network.add_time_condition.attention(mean, context, hidden).squeeze(1)
            time = functional.silu(time)  # as every normalization begins
            features, skips = network.conv_in(sample), []
            for block in network.down_blocks:
                features = block(features, time, context, hidden)
                skips.append(features)
            skips.pop()  # the coarsest goes straight on
            for level, block in enumerate(network.up_blocks):
                if level:
                    features = torch.cat([features, skips.pop()], dim=1)
                features = block(features, time, context, hidden)
        result: torch.Tensor = network.conv_out(network.conv_act_out(network.conv_norm_out(features)))
        return (result,)


@contextmanager
def _lean_norms(affine: Mapping[int, tuple[torch.Tensor, torch.Tensor]], offset: torch.Tensor) -> Iterator[None]:
    """Within this context, normalizations take the activated embedding, and have a scale as other groups do.

    Args:
        affine: Channels to ones and zeros.
        offset: 1 of the scale and 0 of the shift, (2, 1, 1, 1).
    """

    def normalize(layer: Any, features: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Normalize features (B, C, h, w), scaled and shifted by what a layer makes of SiLU(time), (B, D)."""
        norm = layer.norm
        numbers = layer.context_mlp[1](time).reshape(-1, 2, norm.num_channels, 1, 1) + offset
        flat = functional.group_norm(features, norm.num_groups, *affine[norm.num_channels], norm.eps)
        result: torch.Tensor = flat * numbers.select(1, 0) + numbers.select(1, 1)
        return result

    with mock.patch.object(_Norm, "forward", normalize):
        yield
