"""MultilingualCLIP: an XLM-R encoder whose states, averaged over a prompt, are projected into CLIP's space.

Conneau et al. 2020, https://arxiv.org/abs/1911.02116. diffusers: `MultilingualCLIP`, of Kandinsky 2.1.
"""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import TEXT_ENCODER

__all__ = ["multilingual_clip"]

_CLASS = "MultilingualCLIP"


def multilingual_clip(name: str = "text_encoder", *, tokens: int = 77) -> ComponentKind:
    """Declare the text encoder of Kandinsky 2.1.

    Args:
        name: Folder in the checkpoint and in the bundle.
        tokens: Tokens of a prompt.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"kandinsky:{_CLASS}",),
        describe=partial(_describe, name=name, tokens=tokens),
        folder=name.replace("text_encoder", "tokenizer"),
    )


def _describe(configs: Configs, *, name: str, tokens: int) -> Component:
    width = read_integer(configs, name, "transformerDimensions", 1024)
    projected = read_integer(configs, name, "numDims", 768)
    row = ("batch", "sequence")
    return Component(
        name=name,
        role=TEXT_ENCODER,
        network=_CLASS,
        source=name,
        inputs=(
            TensorSpec(name="input_ids", dtype="int32", shape=row),
            TensorSpec(name="attention_mask", dtype="float32", shape=row),  # 1 for a token, 0 for padding
        ),
        outputs=(
            TensorSpec(name="text_embeds", dtype="float32", shape=("batch", projected)),
            TensorSpec(name="last_hidden_state", dtype="float32", shape=(*row, width)),
        ),
        example={"batch": 2, "sequence": 7},
        usual={"sequence": tokens},
        wrapper="diffoundry.exporter.components.multilingual_clip_module:MultilingualClipModule",
    )
