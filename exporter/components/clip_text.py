"""CLIP's text encoder: token ids to hidden states and a pooled vector."""

from dataclasses import replace
from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import TEXT_ENCODER

__all__ = ["PLAIN", "PROJECTED", "clip_text_encoder"]

PLAIN = "CLIPTextModel"
PROJECTED = "CLIPTextModelWithProjection"

_NORMALIZING = "diffoundry.exporter.components.clip_text_module:NormalizedClipText"

_MASKED = "diffoundry.exporter.components.clip_text_module:MaskedClipText"


def clip_text_encoder(
    name: str = "text_encoder",
    *,
    model_classes: tuple[str, ...] = (PLAIN,),
    hidden_states: bool = False,
    normalized: bool = False,
    masked: bool = False,
) -> ComponentKind:
    """Declare a CLIP text encoder.

    Args:
        name: Folder in the checkpoint and in the bundle.
        model_classes: Its classes in transformers: `PLAIN`, `PROJECTED` or both. The pooled output is "pooler_output",
            or "text_embeds" of a model with projection.
        hidden_states: True if the graph also outputs "hidden_states.0" (the embeddings) to "hidden_states.N" (layer
            N), each before the final layer norm. Stable Diffusion XL uses the last but one.
        normalized: True if the graph also outputs all hidden states but the last, after the final layer norm, as one
            tensor. Stable Diffusion uses them for `clip_skip`.
        masked: True if the graph also takes the mask of padding, which changes the hidden states of padding. Stable
            Cascade passes it. Not together with `normalized`.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=tuple(f"transformers:{model_class}" for model_class in model_classes),
        describe=partial(_describe, name=name, hidden_states=hidden_states, normalized=normalized, masked=masked),
        folder=name.replace("text_encoder", "tokenizer"),
    )


def _describe(configs: Configs, *, name: str, hidden_states: bool, normalized: bool, masked: bool) -> Component:
    network = str(configs[name]["_class_name"])
    pooled = "text_embeds" if network == PROJECTED else "pooler_output"
    width = read_integer(configs, name, "hidden_size", 512)
    pooled_width = read_integer(configs, name, "projection_dim", 512) if pooled == "text_embeds" else width
    outputs = [
        TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", "sequence", width)),
        TensorSpec(name=pooled, dtype="float32", shape=("batch", pooled_width)),
    ]
    layers = read_integer(configs, name, "num_hidden_layers", 12)
    if normalized:
        shape = ("batch", layers, "sequence", width)
        outputs.append(TensorSpec(name="normalized_hidden_states", dtype="float32", shape=shape))
    if hidden_states:
        outputs += [
            TensorSpec(name=f"hidden_states.{layer}", dtype="float32", shape=("batch", "sequence", width))
            for layer in range(layers + 1)
        ]
    row = ("batch", "sequence")
    mask = (TensorSpec(name="attention_mask", dtype="float32", shape=row),) if masked else ()  # 0 for padding
    component = Component(
        name=name,
        role=TEXT_ENCODER,
        network=network,
        source=name,
        inputs=(TensorSpec(name="input_ids", dtype="int32", shape=row), *mask),
        outputs=tuple(outputs),
        example={"batch": 2, "sequence": 7},
        call=Call(options={"output_hidden_states": hidden_states or normalized}),
    )
    wrapper = _MASKED if masked else _NORMALIZING if normalized else component.wrapper
    return replace(component, wrapper=wrapper)
