"""CLIP's text encoder as a traceable module."""

from typing import Any

import torch

from diffoundry.exporter.component import Component

__all__ = ["ClipTextModule"]


class ClipTextModule(torch.nn.Module):
    """transformers' text model with tensors in, tensors out."""

    def __init__(self, model: torch.nn.Module, component: Component) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(output.name for output in component.outputs)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode token ids, int32, (batch, sequence); the outputs are the component's, in its order."""
        states = any("hidden_states" in name for name in self.names)
        given = self.model(input_ids=input_ids, output_hidden_states=states)
        return tuple(
            self._normalize(given["hidden_states"]) if name == "normalized_hidden_states" else _pick(given, name)
            for name in self.names
        )

    def _normalize(self, states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """All but the last after the final layer norm, (batch, layers, sequence, width)."""
        inner: Any = getattr(self.model, "text_model", self.model)  # transformers before 5 has it one deeper
        normalized: torch.Tensor = inner.final_layer_norm(torch.stack(states[:-1], dim=1))
        return normalized


def _pick(given: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    field, _, layer = name.partition(".")
    return given[field][int(layer)] if layer else given[field]
