"""CLIP's text encoder: token ids to hidden states and a pooled vector."""

from dataclasses import replace
from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import TEXT_ENCODER

__all__ = ["clip_text_encoder"]

_NORMALIZING = "diffoundry.exporter.components.clip_text_module:NormalizedClipText"


def clip_text_encoder(
    name: str = "text_encoder",
    *,
    model_class: str = "CLIPTextModel",
    pooled: str = "pooler_output",
    hidden_states: bool = False,
    normalized: bool = False,
) -> ComponentKind:
    """Declare a CLIP text encoder.

    Args:
        name: Folder in the checkpoint and in the bundle.
        model_class: Its class in transformers.
        pooled: Name of the pooled output: "pooler_output", or "text_embeds" of a model with projection.
        hidden_states: True if the graph also outputs "hidden_states.0" (the embeddings) to "hidden_states.N" (layer
            N), each before the final layer norm. Stable Diffusion XL uses the last but one.
        normalized: True if the graph also outputs all hidden states but the last, after the final layer norm, as one
            tensor. Stable Diffusion uses them for `clip_skip`.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"transformers:{model_class}",),
        describe=partial(
            _describe,
            name=name,
            network=model_class,
            pooled=pooled,
            hidden_states=hidden_states,
            normalized=normalized,
        ),
        folder=name.replace("text_encoder", "tokenizer"),
    )


def _describe(
    configs: Configs, *, name: str, network: str, pooled: str, hidden_states: bool, normalized: bool
) -> Component:
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
    component = Component(
        name=name,
        role=TEXT_ENCODER,
        network=network,
        source=name,
        inputs=(TensorSpec(name="input_ids", dtype="int32", shape=("batch", "sequence")),),
        outputs=tuple(outputs),
        example={"batch": 2, "sequence": 7},
        call=Call(options={"output_hidden_states": hidden_states or normalized}),
    )
    return replace(component, wrapper=_NORMALIZING) if normalized else component
