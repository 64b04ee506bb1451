"""Transformer2DModel over codes: noisy codes, a timestep and a prompt to log probabilities of the clean codes.

Gu et al. 2021, https://arxiv.org/abs/2111.14822, section 4.
"""

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["VQ_DIFFUSION_TRANSFORMER"]

_CLASS = "Transformer2DModel"
_SOURCE = "transformer"

_NORMS = ("layer_norm", "ada_norm")
"""Both are AdaLayerNorm where `num_embeds_ada_norm` is set; diffusers renames the first."""


def _describe(configs: Configs) -> Component:
    subject = f"{_SOURCE}/config.json"
    classes = read_integer(configs, _SOURCE, "num_vector_embeds", None)
    read_integer(configs, _SOURCE, "num_embeds_ada_norm", None)
    width = read_integer(configs, _SOURCE, "cross_attention_dim", None)
    side = read_integer(configs, _SOURCE, "sample_size", None)
    norm = configs[_SOURCE].get("norm_type", _NORMS[0])
    if norm not in _NORMS:
        raise refuse(subject, "norm_type", norm, " or ".join(_NORMS))
    for field in ("only_cross_attention", "double_self_attention"):
        if configs[_SOURCE].get(field):
            raise refuse(subject, field, configs[_SOURCE][field], "false: the second attention alone reads the text")
    factor = parse_size(latent_dims(configs)[0]).divisor
    # The network knows one size: the positions are a table of it.
    sides = DimSpec(min=side * factor, max=side * factor, multiple_of=factor)
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="int32", shape=("batch", side * side)),
            TensorSpec(name="timestep", dtype="int32", shape=(1,)),  # a row of a learned table
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", width)),
        ),
        outputs=(TensorSpec(name="log_probabilities", dtype="float32", shape=("batch", classes - 1, side * side)),),
        example={"batch": 2, "sequence": 7},
        sizes={"height": sides, "width": sides},
        wrapper="diffoundry.exporter.components.vq_diffusion_transformer_module:CodeTransformer",
    )


VQ_DIFFUSION_TRANSFORMER = ComponentKind(
    name=_SOURCE, source=_SOURCE, classes=(f"diffusers:{_CLASS}",), describe=_describe
)
