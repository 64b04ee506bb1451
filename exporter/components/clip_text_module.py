"""CLIP's text encoder as a traceable module: with normalized hidden states, or with plain arithmetic for its mask."""

from collections.abc import Sequence
from typing import Any

import torch

from diffoundry.exporter.components.network_module import NetworkModule

__all__ = ["MaskedClipText", "NormalizedClipText"]

_HIDDEN = -1e4
"""Added to the scores of padding and of later tokens. exp(-1e4) is 0 in every float type."""


class MaskedClipText(NetworkModule):
    """Takes the mask of padding as floats (batch, sequence), 1 for a token and 0 for padding."""

    def keywords(self, tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
        """See `NetworkModule.keywords`; the mask of transformers, of padding and of later tokens."""
        keywords = super().keywords(tensors)
        padding = 1.0 - keywords["attention_mask"]
        positions = torch.arange(padding.shape[1], device=padding.device)
        later = (positions[None, :] > positions[:, None]).to(padding.dtype)
        return {**keywords, "attention_mask": (later + padding[:, None, None, :]) * _HIDDEN}


class NormalizedClipText(NetworkModule):
    """Adds the output "normalized_hidden_states": all hidden states but the last, after the final layer norm."""

    def pick(self, result: Any, name: str) -> torch.Tensor:
        """See `NetworkModule.pick`; (batch, layers, sequence, width) for the added output."""
        if name != "normalized_hidden_states":
            return super().pick(result, name)
        inner: Any = getattr(self.model, "text_model", self.model)  # transformers before 5 has it one deeper
        normalized: torch.Tensor = inner.final_layer_norm(torch.stack(result["hidden_states"][:-1], dim=1))
        return normalized
