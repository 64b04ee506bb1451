"""Transformer2DModel over codes as a traceable module."""

from typing import Any

import torch

from diffoundry.exporter.component import Component

__all__ = ["CodeTransformer"]


class CodeTransformer(torch.nn.Module):
    """Predicts clean codes. diffusers: `Transformer2DModel.forward`, with `is_input_vectorized`."""

    def __init__(self, network: torch.nn.Module, _component: Component) -> None:
        super().__init__()
        self.network: Any = network

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor]:
        """Return log probabilities (batch, classes - 1, pixels) of codes (batch, pixels), a timestep (1,), a prompt."""
        states = self.network.latent_image_embedding(hidden_states)
        for block in self.network.transformer_blocks:
            states = states + block.attn1(_normalize(block.norm1, states, timestep))
            normalized = _normalize(block.norm2, states, timestep)
            states = states + block.attn2(normalized, encoder_hidden_states=encoder_hidden_states)
            states = states + block.ff(block.norm3(states))
        logits: torch.Tensor = self.network.out(self.network.norm_out(states))
        return (torch.log_softmax(logits, dim=-1).permute(0, 2, 1),)


def _normalize(norm: Any, states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Run diffusers' `AdaLayerNorm` with a timestep (1,). Its own multiplies a vector, unlike Core ML."""
    scale, shift = norm.linear(norm.silu(norm.emb(timestep))).unsqueeze(1).chunk(2, dim=-1)
    result: torch.Tensor = norm.norm(states) * (1 + scale) + shift
    return result
