"""Decoder-only language models as text encoders: token ids to hidden states of some layers.

Qwen 3: https://arxiv.org/abs/2505.09388. Qwen 2.5 VL: https://arxiv.org/abs/2502.13923. Qwen 3 VL:
https://arxiv.org/abs/2511.21631. Gemma 2: https://arxiv.org/abs/2408.00118. Mistral Small 3.2, for text alone: https://mistral.ai/news/mistral-small-3-1.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from diffoundry.exporter.component import Component, ComponentKind, Configs
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.causal_lm import hidden_state_names, read_causal_layout
from diffoundry.runtime.models.qwen3_vision import deepstack_names
from diffoundry.runtime.models.roles import TEXT_ENCODER

__all__ = ["GEMMA_2", "MISTRAL_3", "QWEN_2_5_VL", "QWEN_3", "QWEN_3_VL", "causal_text_encoder"]

QWEN_3 = ("Qwen3Model", "Qwen3ForCausalLM")
QWEN_2_5_VL = ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel")
QWEN_3_VL = ("Qwen3VLForConditionalGeneration", "Qwen3VLModel")
MISTRAL_3 = ("Mistral3ForConditionalGeneration", "Mistral3Model")
GEMMA_2 = ("Gemma2Model", "Gemma2ForCausalLM")

_PADS_LEFT = "mistral3"
"""Kind of model whose pipeline reads padding to the left of a prompt too."""


def causal_text_encoder(
    name: str = "text_encoder",
    *,
    model_classes: Sequence[str],
    hidden_states: Sequence[int],
    tokens: int,
    chat: Mapping[str, Any] | None = None,
    optional: bool = False,
    images: bool = False,
    folder: str | None = None,
) -> ComponentKind:
    """Declare a language model.

    Layers after the last hidden state are left out, and their weights are never read.

    Args:
        name: Folder in the checkpoint and in the bundle.
        model_classes: Its classes in transformers: `QWEN_3`, `GEMMA_2`, or `QWEN_2_5_VL`, `QWEN_3_VL` and `MISTRAL_3`,
            of which the graph is the part for text.
        hidden_states: Those that the pipeline reads, as transformers numbers them: 0 for the embeddings, -1 for the
            last, which is normalized. Each is an output, "hidden_states.35".
        tokens: Tokens of a prompt by default, those of a chat included.
        chat: Arguments for the tokenizer's chat template; None without a chat, or where the pipeline writes it itself.
        optional: True if a checkpoint may lack it.
        images: True if tokens of images are inputs too.
        folder: Folder of its tokenizer, where it is not named alike.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=tuple(f"transformers:{one}" for one in model_classes),
        describe=partial(_describe, name=name, hidden_states=hidden_states, tokens=tokens, images=images),
        optional=optional,
        folder=folder or name.replace("text_encoder", "tokenizer"),
        chat=chat,
    )


def _describe(configs: Configs, *, name: str, hidden_states: Sequence[int], tokens: int, images: bool) -> Component:
    subject = f"{name}/config.json"
    layout = read_causal_layout(configs[name], subject)
    if layout.window is not None and layout.window < tokens:
        raise refuse(subject, "sliding_window", layout.window, f"at least {tokens}, the tokens of a prompt")
    row = ("batch", "sequence")
    angles = (*row, layout.head // 2)
    deep = deepstack_names(configs[name], subject)
    seen = (
        TensorSpec(name="image_embeds", dtype="float32", shape=(*row, layout.width)),
        TensorSpec(name="image_mask", dtype="float32", shape=row),
        *(TensorSpec(name=one, dtype="float32", shape=(*row, layout.width)) for one in deep),
    )
    masked = configs[name].get("model_type") == _PADS_LEFT
    seeing = "DeepstackTextModule" if deep else "CausalImageTextModule"
    module = seeing if images else "LeftPaddedTextModule" if masked else "CausalTextModule"
    return Component(
        name=name,
        role=TEXT_ENCODER,
        network=str(configs[name]["_class_name"]),
        source=name,
        inputs=(
            TensorSpec(name="input_ids", dtype="int32", shape=row),
            TensorSpec(name="attention_mask", dtype="float32", shape=row),
            TensorSpec(name="rotary_cos", dtype="float32", shape=angles),
            TensorSpec(name="rotary_sin", dtype="float32", shape=angles),
            *(seen if images else ()),
        ),
        outputs=tuple(
            TensorSpec(name=output, dtype="float32", shape=(*row, layout.width))
            for output in hidden_state_names(hidden_states, layout, subject)
        ),
        example={"batch": 2, "sequence": 7},
        usual={"sequence": tokens},
        wrapper=f"diffoundry.exporter.components.causal_lm_text_module:{module}",
    )
