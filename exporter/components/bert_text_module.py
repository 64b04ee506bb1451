"""BERT as a traceable module."""

import torch

from diffoundry.exporter.components.t5_text_module import MaskedT5Module

__all__ = ["BertTextModule"]


class BertTextModule(MaskedT5Module):
    """Computes transformers' `BertModel.forward` with a mask of the padding.

    transformers looks up the kind of every token in a table of its own, with an operator that few targets have. It is
    the first for all tokens of a prompt.
    """

    def further_inputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """See `MaskedT5Module`: the kinds of tokens."""
        return {"token_type_ids": torch.zeros_like(input_ids)}
