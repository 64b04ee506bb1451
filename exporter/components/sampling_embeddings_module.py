"""The normalization of VQ-Diffusion's prompts as a traceable module."""

import torch

from diffoundry.exporter.component import Component

__all__ = ["NormalizedPrompts"]


class NormalizedPrompts(torch.nn.Module):
    """Scales hidden states to length 1. diffusers: `VQDiffusionPipeline._encode_prompt`."""

    def __init__(self, _network: torch.nn.Module, _component: Component) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        """Return hidden states (batch, tokens, width), each token divided by its length."""
        return (hidden_states / hidden_states.norm(dim=-1, keepdim=True),)
