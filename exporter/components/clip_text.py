"""CLIP's text encoder: token ids to hidden states and a pooled vector."""

from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_field
from diffoundry.runtime.specs import TensorSpec

__all__ = ["clip_text_encoder"]


def clip_text_encoder(
    name: str = "text_encoder",
    *,
    model_class: str = "CLIPTextModel",
    pooled: str = "pooler_output",
    hidden_states: bool = False,
) -> ComponentKind:
    """Declare a CLIP text encoder.

    Args:
        name: Folder in the checkpoint and in the bundle.
        model_class: Its class in transformers.
        pooled: Name of the pooled output: "pooler_output", or "text_embeds" of a model with projection.
        hidden_states: Whether the graph also gives "hidden_states.0" (the embeddings) to "hidden_states.N" (layer N),
            each before the final layer norm; Stable Diffusion XL is conditioned on the last but one.
    """
    return ComponentKind(
        name=name,
        source=name,
        classes=(f"transformers:{model_class}",),
        describe=partial(_describe, name=name, pooled=pooled, hidden_states=hidden_states),
        folder=name.replace("text_encoder", "tokenizer"),
    )


def _describe(configs: Configs, *, name: str, pooled: str, hidden_states: bool) -> Component:
    width = read_field(configs, name, "hidden_size", int)
    pooled_width = read_field(configs, name, "projection_dim", int) if pooled == "text_embeds" else width
    outputs = [
        TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", "sequence", width)),
        TensorSpec(name=pooled, dtype="float32", shape=("batch", pooled_width)),
    ]
    if hidden_states:
        layers = read_field(configs, name, "num_hidden_layers", int)
        outputs += [
            TensorSpec(name=f"hidden_states.{layer}", dtype="float32", shape=("batch", "sequence", width))
            for layer in range(layers + 1)
        ]
    return Component(
        name=name,
        source=name,
        wrapper="diffoundry.exporter.components.clip_text_module:ClipTextModule",
        inputs=(TensorSpec(name="input_ids", dtype="int32", shape=("batch", "sequence")),),
        outputs=tuple(outputs),
        example={"batch": 2, "sequence": 7},
    )
