"""The base of attention processors for graphs: projections and heads, as `diffusers.AttnProcessor2_0` has them."""

from typing import Any

import torch

__all__ = ["AttentionProcessor", "split_axis"]


class AttentionProcessor:
    """A processor of diffusers' `Attention`; a subclass says how queries, keys and values are combined."""

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_: Any
    ) -> torch.Tensor:
        """Compute the layer; arguments and result as diffusers' processors."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        pairs = ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        query, key, value = (split_axis(layer(states), 2, (attn.heads, -1)).transpose(1, 2) for layer, states in pairs)
        mixed = self.attend(attn, query, key, value).transpose(1, 2).flatten(2)
        result: torch.Tensor = attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor
        return result

    def attend(self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return the attention's result; all tensors are (batch, heads, tokens, width)."""
        raise NotImplementedError


def split_axis(tensor: torch.Tensor, axis: int, sizes: tuple[Any, ...]) -> torch.Tensor:
    """Split an axis into several; torch's own method has no types."""
    return tensor.reshape(*tensor.shape[:axis], *sizes, *tensor.shape[axis + 1 :])
