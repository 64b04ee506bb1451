"""PriorTransformer: a noisy image embedding and a prompt, or an image, to the clean image embedding.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.2; for Shap-E Jun and Nichol 2023, 2305.02463.
"""

from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.clip_vision import clip_tokens
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.prior_transformer import STATISTICS
from diffoundry.runtime.models.roles import PRIOR

__all__ = ["prior_transformer"]

_CLASS = "PriorTransformer"


def prior_transformer(name: str = "prior", *, reads_text: bool = True, sees_image: bool = False) -> ComponentKind:
    """Declare a prior.

    Args:
        name: Folder in the checkpoint and in the bundle.
        reads_text: True if it takes the states of a text and makes one embedding. False for Shap-E's, which makes many.
        sees_image: True if it takes the states of every patch of an image instead of one vector.
    """
    describe = partial(_describe, name=name, reads_text=reads_text, sees_image=sees_image)
    return ComponentKind(name=name, source=name, classes=(f"diffusers:{_CLASS}",), describe=describe)


def _describe(configs: Configs, *, name: str, reads_text: bool, sees_image: bool) -> Component:
    config, subject = configs[name], f"{name}/config.json"
    width = read_integer(configs, name, "embedding_dim", 768)
    tokens = read_integer(configs, name, "num_embeddings", 77)
    given = integer(config, "embedding_proj_dim", None, subject=subject) or width
    returned = integer(config, "clip_embed_dim", None, subject=subject) or width
    kind = config.get("encoder_hid_proj_type", "linear")
    if (kind is not None) != reads_text:
        expected = "'linear', since this pipeline's prior reads a text" if reads_text else "null, as in Shap-E"
        raise ConfigError(f"{subject}: field 'encoder_hid_proj_type': got {kind!r}, expected {expected}")
    if not reads_text and returned != 2 * width:
        raise ConfigError(
            f"{subject}: field 'clip_embed_dim': got {returned}, expected {2 * width}, twice embedding_dim: Shap-E's "
            f"prior predicts means and variances"
        )
    conditions: tuple[int | str, ...] = ("batch", clip_tokens(configs) - 1) if sees_image else ("batch",)
    # Without a text, as in Shap-E, the embedding itself has as many tokens as there are positions.
    shape: tuple[int | str, ...] = ("batch",) if reads_text else ("batch", tokens)
    inputs = [
        TensorSpec(name="hidden_states", dtype="float32", shape=(*shape, width)),
        TensorSpec(name="timestep", dtype="float32", shape=(1,)),
        TensorSpec(name="proj_embedding", dtype="float32", shape=(*conditions, given)),
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
