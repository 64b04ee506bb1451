"""T5's text encoder: token ids to hidden states. Raffel et al. 2019, https://arxiv.org/abs/1910.10683."""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import TEXT_ENCODER

__all__ = ["UMT5", "t5_text_encoder", "text_component"]

_T5, UMT5 = "T5EncoderModel", "UMT5EncoderModel"
"""Classes of transformers. In the second every layer has positions of its own."""

_PLAIN, _MASKED = "network_module:NetworkModule", "t5_text_module:MaskedT5Module"
"""Traced modules, without and with a mask of the padding."""


def t5_text_encoder(
    name: str, *, tokens: int, mask: bool = False, optional: bool = False, network: str = _T5
) -> ComponentKind:
    """Declare a T5 text encoder.

    Args:
        name: Folder in the checkpoint and in the bundle.
        tokens: Tokens of a prompt by default.
        mask: True if its pipeline hides the padding. Otherwise prompts attend to their padding.
        optional: True if a checkpoint may lack it.
        network: Its class in transformers.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"transformers:{network}",),
        describe=partial(_describe, name=name, tokens=tokens, mask=mask, network=network),
        optional=optional,
        folder=name.replace("text_encoder", "tokenizer"),
    )


def _describe(configs: Configs, *, name: str, tokens: int, mask: bool, network: str) -> Component:
    width = read_integer(configs, name, "d_model", 512)
    return text_component(name, network, width, tokens, mask=mask, module=_MASKED if mask else _PLAIN)


def text_component(name: str, network: str, width: int, tokens: int, *, mask: bool, module: str) -> Component:
    """Describe a text encoder whose result is its last hidden state.

    Args:
        name: Folder in the checkpoint and in the bundle.
        network: Its class in transformers.
        width: Of a hidden state.
        tokens: Tokens of a prompt by default.
        mask: True if padding is hidden.
        module: "file:class" of the traced module.
    """
    row = ("batch", "sequence")
    hidden = (TensorSpec(name="attention_mask", dtype="float32", shape=row),) if mask else ()
    return Component(
        name=name,
        role=TEXT_ENCODER,
        network=network,
        source=name,
        inputs=(TensorSpec(name="input_ids", dtype="int32", shape=row), *hidden),
        outputs=(TensorSpec(name="last_hidden_state", dtype="float32", shape=(*row, width)),),
        example={"batch": 2, "sequence": 7},
        usual={"sequence": tokens},
        wrapper=f"diffoundry.exporter.components.{module}",
    )
