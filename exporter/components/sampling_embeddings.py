"""LearnedClassifierFreeSamplingEmbeddings: normalizes prompts, and holds the rows of no prompt beside its graph."""

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import flag, refuse
from diffoundry.runtime.models.roles import CONNECTOR
from diffoundry.runtime.models.sampling_embeddings import EMBEDDINGS

__all__ = ["SAMPLING_EMBEDDINGS"]

_CLASS = "LearnedClassifierFreeSamplingEmbeddings"
_SOURCE = "learned_classifier_free_sampling_embeddings"


def _describe(configs: Configs) -> Component:
    subject = f"{_SOURCE}/config.json"
    width = read_integer(configs, "text_encoder", "hidden_size", 512)
    learned = flag(configs[_SOURCE], "learnable", default=False, subject=subject)
    if learned and read_integer(configs, _SOURCE, "hidden_size", None) != width:
        raise refuse(subject, "hidden_size", configs[_SOURCE]["hidden_size"], f"{width}, that of the text encoder")
    shape = ("batch", "sequence", width)
    return Component(
        name=_SOURCE,
        role=CONNECTOR,
        network=_CLASS,
        source=_SOURCE,
        inputs=(TensorSpec(name="hidden_states", dtype="float32", shape=shape),),
        outputs=(TensorSpec(name="normalized_states", dtype="float32", shape=shape),),
        example={"batch": 2, "sequence": 7},
        tables=(EMBEDDINGS,) if learned else (),
        wrapper="diffoundry.exporter.components.sampling_embeddings_module:NormalizedPrompts",
    )


SAMPLING_EMBEDDINGS = ComponentKind(
    name=_SOURCE,
    source=_SOURCE,
    classes=(f"vq_diffusion:{_CLASS}", f"diffusers:{_CLASS}"),  # the second is what diffusers 0.42 writes
    describe=_describe,
)
