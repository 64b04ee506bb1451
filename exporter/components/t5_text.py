"""T5's text encoder: token ids to hidden states. Raffel et al. 2019, https://arxiv.org/abs/1910.10683."""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import TEXT_ENCODER

__all__ = ["t5_text_encoder"]

_CLASS = "T5EncoderModel"


def t5_text_encoder(name: str, *, tokens: int, optional: bool = False) -> ComponentKind:
    """Declare a T5 text encoder.

    Args:
        name: Folder in the checkpoint and in the bundle.
        tokens: Tokens of a prompt by default.
        optional: True if a checkpoint may lack it.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"transformers:{_CLASS}",),
        describe=partial(_describe, name=name, tokens=tokens),
        optional=optional,
        folder=name.replace("text_encoder", "tokenizer"),
    )


def _describe(configs: Configs, *, name: str, tokens: int) -> Component:
    width = read_integer(configs, name, "d_model", 512)
    return Component(
        name=name,
        role=TEXT_ENCODER,
        network=_CLASS,
        source=name,
        # No mask: diffusers lets prompts attend to their padding.
        inputs=(TensorSpec(name="input_ids", dtype="int32", shape=("batch", "sequence")),),
        outputs=(TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", "sequence", width)),),
        example={"batch": 2, "sequence": 7},
        usual={"sequence": tokens},
    )
