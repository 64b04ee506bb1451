"""BERT as a text encoder: token ids to hidden states. Devlin et al. 2018, https://arxiv.org/abs/1810.04805."""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.t5_text import text_component

__all__ = ["bert_text_encoder"]

_CLASS = "BertModel"


def bert_text_encoder(name: str, *, tokens: int) -> ComponentKind:
    """Declare a BERT whose padding is hidden.

    Args:
        name: Folder in the checkpoint and in the bundle.
        tokens: Tokens of a prompt by default.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"transformers:{_CLASS}",),
        describe=partial(_describe, name=name, tokens=tokens),
        folder=name.replace("text_encoder", "tokenizer"),
    )


def _describe(configs: Configs, *, name: str, tokens: int) -> Component:
    width = read_integer(configs, name, "hidden_size", 768)
    return text_component(name, _CLASS, width, tokens, mask=True, module="bert_text_module:BertTextModule")
