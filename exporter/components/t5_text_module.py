"""T5's text encoder as a traceable module, with plain arithmetic for its mask."""

from typing import Any

import torch

from diffoundry.exporter.component import Component

__all__ = ["MaskedT5Module"]

_HIDDEN = -1e4
"""Added to the scores of padding. exp(-1e4) is 0 in every float type."""


class MaskedT5Module(torch.nn.Module):
    """Computes transformers' `T5EncoderModel.forward` with a mask of the padding."""

    def __init__(self, model: Any, _component: Component) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        """Encode prompts.

        Args:
            input_ids: int32 (batch, sequence).
            attention_mask: float32 (batch, sequence), 1 for a token and 0 for padding.

        Returns:
            Hidden states (batch, sequence, width).
        """
        hidden = ((1.0 - attention_mask) * _HIDDEN)[:, None, None, :]
        return (self.model(input_ids=input_ids, attention_mask=hidden, **self.further_inputs(input_ids))[0],)

    def further_inputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Return further keywords of the network; by default none."""
        return {}
