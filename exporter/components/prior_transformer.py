"""PriorTransformer: a noisy image embedding and a prompt, or an image, to the clean image embedding.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.2; for Shap-E Jun and Nichol 2023, 2305.02463.
"""

from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.prior_transformer import STATISTICS
from diffoundry.runtime.models.roles import PRIOR

__all__ = ["prior_transformer"]

_CLASS = "PriorTransformer"


def prior_transformer(name: str = "prior") -> ComponentKind:
    """Declare a prior.

    Args:
        name: Folder in the checkpoint and in the bundle.
    """
    return ComponentKind(
        name=name, source=name, classes=(f"diffusers:{_CLASS}",), describe=partial(_describe, name=name)
    )


def _describe(configs: Configs, *, name: str) -> Component:
    config, subject = configs[name], f"{name}/config.json"
    width = read_integer(configs, name, "embedding_dim", 768)
    tokens = read_integer(configs, name, "num_embeddings", 77)
    given = integer(config, "embedding_proj_dim", None, subject=subject) or width
    returned = integer(config, "clip_embed_dim", None, subject=subject) or width
    reads_text = config.get("encoder_hid_proj_type", "linear") is not None
    # Without a text, as in Shap-E, the embedding itself has as many tokens as there are positions.
    shape: tuple[int | str, ...] = ("batch",) if reads_text else ("batch", tokens)
    inputs = [
        TensorSpec(name="hidden_states", dtype="float32", shape=(*shape, width)),
        TensorSpec(name="timestep", dtype="float32", shape=(1,)),
        TensorSpec(name="proj_embedding", dtype="float32", shape=("batch", given)),
    ]
    if reads_text:
        inputs += [
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", tokens, width)),
            TensorSpec(name="attention_mask", dtype="float32", shape=("batch", tokens)),  # 1 for a token, 0 for padding
        ]
    return Component(
        name=name,
        role=PRIOR,
        network=_CLASS,
        source=name,
        inputs=tuple(inputs),
        outputs=(TensorSpec(name="predicted_image_embedding", dtype="float32", shape=(*shape, returned)),),
        example={"batch": 2},
        call=Call(),
        tables=STATISTICS,
    )
