"""UnCLIPTextProjModel: image embeddings and prompts to the conditioning of an unCLIP decoder.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.1.
"""

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import CONNECTOR
from diffoundry.runtime.models.unclip_text_proj import UNCONDITIONAL

__all__ = ["UNCLIP_TEXT_PROJ"]

_CLASS = "UnCLIPTextProjModel"
_SOURCE = "text_proj"


def _describe(configs: Configs) -> Component:
    width = read_integer(configs, _SOURCE, "clip_embeddings_dim", 768)
    condition = read_integer(configs, _SOURCE, "cross_attention_dim", None)
    extra = read_integer(configs, _SOURCE, "clip_extra_context_tokens", 4)
    labels = read_integer(configs, _SOURCE, "time_embed_dim", None)
    # The graph adds the image's tokens in front of those of the text.
    tokens = read_integer(configs, "text_encoder", "max_position_embeddings", 77)
    return Component(
        name=_SOURCE,
        role=CONNECTOR,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="image_embeddings", dtype="float32", shape=("batch", width)),
            TensorSpec(name="prompt_embeds", dtype="float32", shape=("batch", width)),
            TensorSpec(name="text_encoder_hidden_states", dtype="float32", shape=("batch", tokens, width)),
        ),
        outputs=(
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", tokens + extra, condition)),
            TensorSpec(name="class_labels", dtype="float32", shape=("batch", labels)),
        ),
        example={"batch": 2},
        call=Call(
            results={"encoder_hidden_states": "0", "class_labels": "1"}, options={"do_classifier_free_guidance": False}
        ),
        tables=(UNCONDITIONAL,),
    )


UNCLIP_TEXT_PROJ = ComponentKind(
    name=_SOURCE,
    source=_SOURCE,
    classes=(f"unclip:{_CLASS}", f"diffusers:{_CLASS}"),  # the second is what diffusers 0.42 writes
    describe=_describe,
)
