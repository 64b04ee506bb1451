"""Kandinsky's text encoder as a traceable module with plain arithmetic for positions and mask."""

from typing import Any

import torch

from diffoundry.exporter.component import Component

__all__ = ["MultilingualClipModule"]

_MASKED = -1e4
"""Added to the scores of padding. exp(-1e4) is 0 in every float type."""


class MultilingualClipModule(torch.nn.Module):
    """Computes diffusers' `MultilingualCLIP.forward`."""

    def __init__(self, model: Any, _component: Component) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts.

        Args:
            input_ids: int32 (batch, sequence).
            attention_mask: float32 (batch, sequence), 1 for a token and 0 for padding.

        Returns:
            Projected means of the states (batch, projected), and the states (batch, sequence, width).
        """
        padding = self.model.config.pad_token_id
        filled = 1.0 - (input_ids == padding).to(attention_mask.dtype)
        # transformers: `create_position_ids_from_input_ids`
        positions = (torch.cumsum(filled, dim=1) * filled + padding).to(torch.int32)
        states = self.model.transformer(
            input_ids=input_ids,
            attention_mask=((1.0 - attention_mask) * _MASKED)[:, None, None, :],
            position_ids=positions,
            token_type_ids=torch.zeros_like(input_ids),
        )[0]
        mean = (states * attention_mask[:, :, None]).sum(dim=1) / attention_mask.sum(dim=1)[:, None]
        return self.model.LinearTransformation(mean), states
