"""CLIP's text encoder as a traceable module that normalizes its hidden states."""

from typing import Any

import torch

from diffoundry.exporter.components.network_module import NetworkModule

__all__ = ["NormalizedClipText"]


class NormalizedClipText(NetworkModule):
    """Adds the output "normalized_hidden_states": all hidden states but the last, after the final layer norm."""

    def pick(self, result: Any, name: str) -> torch.Tensor:
        """See `NetworkModule.pick`; (batch, layers, sequence, width) for the added output."""
        if name != "normalized_hidden_states":
            return super().pick(result, name)
        inner: Any = getattr(self.model, "text_model", self.model)  # transformers before 5 has it one deeper
        normalized: torch.Tensor = inner.final_layer_norm(torch.stack(result["hidden_states"][:-1], dim=1))
        return normalized
