"""DiTTransformer2DModel: noisy latents, a timestep and a class to predicted noise, often with its variance.

Peebles and Xie 2022, https://arxiv.org/abs/2212.09748.
"""

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.latents import check_latent_channels, latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["DIT_TRANSFORMER"]

_CLASS = "DiTTransformer2DModel"
_SOURCE = "transformer"


def _describe(configs: Configs) -> Component:
    height, width = latent_dims(configs)
    factor = parse_size(height).divisor
    channels, side = read_integer(configs, _SOURCE, "in_channels", 4), read_integer(configs, _SOURCE, "sample_size", 32)
    check_latent_channels(configs, _SOURCE, channels)
    given = channels if configs[_SOURCE].get("out_channels") is None else _out_channels(configs)
    # The network knows one size: the positions are a table of it, and patches are put back into a square.
    sides = DimSpec(min=side * factor, max=side * factor, multiple_of=factor)
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="hidden_states", dtype="float32", shape=("batch", channels, height, width)),
            # Also between the integers, as schedulers on sigmas have them.
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="class_labels", dtype="int32", shape=("batch",)),
        ),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=("batch", given, height, width)),),
        example={"batch": 2, height: side, width: side, "height": side * factor, "width": side * factor},
        call=Call(results={"out_hidden_states": "sample"}),
        sizes={"height": sides, "width": sides},
    )


def _out_channels(configs: Configs) -> int:
    return read_integer(configs, _SOURCE, "out_channels", None)


DIT_TRANSFORMER = ComponentKind(
    name=_SOURCE,
    source=_SOURCE,
    # Published configs name the class by its name before diffusers 0.29, and diffusers builds the other.
    classes=(f"diffusers:{_CLASS}", "diffusers:Transformer2DModel"),
    describe=_describe,
)
