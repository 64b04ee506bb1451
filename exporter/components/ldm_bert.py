"""Text encoder of latent diffusion: token ids to hidden states. Rombach et al. 2021, https://arxiv.org/abs/2112.10752."""

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.models.roles import TEXT_ENCODER, tokenizer_folder

__all__ = ["LDM_BERT"]

_NAME, _CLASS = "bert", "LDMBertModel"


def _describe(configs: Configs) -> Component:
    width = read_integer(configs, _NAME, "d_model", 1280)
    return Component(
        name=_NAME,
        role=TEXT_ENCODER,
        network=_CLASS,
        source=_NAME,
        # No mask: diffusers lets prompts attend to their padding.
        inputs=(TensorSpec(name="input_ids", dtype="int32", shape=("batch", "sequence")),),
        outputs=(TensorSpec(name="last_hidden_state", dtype="float32", shape=("batch", "sequence", width)),),
        example={"batch": 2, "sequence": 7},
        usual={"sequence": read_integer(configs, _NAME, "max_position_embeddings", 77)},
    )


LDM_BERT = ComponentKind(
    name=_NAME,
    source=_NAME,
    classes=(f"latent_diffusion:{_CLASS}",),
    describe=_describe,
    folder=tokenizer_folder(_NAME),
)
"""diffusers: `LDMBertModel`, without the head over the vocabulary, which its forward pass leaves out."""
