"""StableCascadeUNet: the network of both stages of Stable Cascade.

The prior reads a prompt, and images where there are some. The decoder reads the pooled prompt and the prior's result.
Pernias et al. 2023, https://arxiv.org/abs/2306.00637.
"""

from collections.abc import Callable
from dataclasses import replace

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer, read_levels
from diffoundry.exporter.components.paella_vq_model import paella_factor
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.models.roles import DENOISER, PRIOR
from diffoundry.runtime.models.stable_cascade_unet import CHANNELS, LEVELS

__all__ = ["STABLE_CASCADE_DECODER", "STABLE_CASCADE_PRIOR"]

_CLASS = "StableCascadeUNet"

_PRIOR_SIDE, _DECODER_SIDE = 24, 256
"""Sides of the latents of both stages for an image of 1024 x 1024 pixels, for which they were trained."""


def _kind(name: str, describe: Callable[[Configs], Component]) -> ComponentKind:
    return ComponentKind(name=name, source=name, classes=(f"diffusers:{_CLASS}",), describe=describe)


def _describe_prior(configs: Configs) -> Component:
    height, width = "latent_height", "latent_width"
    text, image = (
        read_integer(configs, "prior", key, None) for key in ("clip_text_in_channels", "clip_image_in_channels")
    )
    component = _describe(configs, "prior", PRIOR, (height, width))
    return replace(
        component,
        inputs=(
            *component.inputs,
            TensorSpec(name="clip_text", dtype="float32", shape=("batch", "sequence", text)),
            TensorSpec(name="clip_img", dtype="float32", shape=("batch", "image_count", image)),
        ),
        example={**component.example, "sequence": 7, "image_count": 2},
        usual={height: _PRIOR_SIDE, width: _PRIOR_SIDE, "image_count": 1},
    )


def _describe_decoder(configs: Configs) -> Component:
    factor, patch = paella_factor(configs, "vqgan"), read_integer(configs, "decoder", "patch_size", 1)
    height, width = f"height/{factor}", f"width/{factor}"
    component = _describe(configs, "decoder", DENOISER, (height, width))
    channels = read_integer(configs, "decoder", "effnet_in_channels", None)
    # The runtime resizes what the prior made, so that no size of the graph is that of another network.
    shape = "batch", channels, f"height/{factor * patch}", f"width/{factor * patch}"
    levels = len(read_levels(configs, "decoder", "block_out_channels", LEVELS))
    sides = DimSpec(min=factor * patch * 2 ** (levels - 1), multiple_of=factor * patch)
    pixels = {symbol: component.example[f"{symbol}/{factor}"] * factor for symbol in ("height", "width")}
    return replace(
        component,
        inputs=(*component.inputs, TensorSpec(name="effnet", dtype="float32", shape=shape)),
        example={**component.example, **pixels},
        sizes={"height": sides, "width": sides},
        usual={"height": _DECODER_SIDE * factor, "width": _DECODER_SIDE * factor},
    )


def _describe(configs: Configs, name: str, role: str, dims: tuple[str, str]) -> Component:
    """Describe what both stages have in common."""
    height, width = dims
    given, returned = (read_integer(configs, name, key, CHANNELS) for key in ("in_channels", "out_channels"))
    pooled = read_integer(configs, name, "clip_text_pooled_in_channels", 1280)
    patch, levels = (
        read_integer(configs, name, "patch_size", 1),
        len(read_levels(configs, name, "block_out_channels", LEVELS)),
    )
    # Every level of this size is odd, so that the trace has the branch for sides that do not divide by two.
    sides = tuple(patch * (count * 2 ** (levels + 1) - 1) for count in (1, 2))
    return Component(
        name=name,
        role=role,
        network=_CLASS,
        source=name,
        inputs=(
            TensorSpec(name="sample", dtype="float32", shape=("batch", given, height, width)),
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),  # from 1 to 0
            TensorSpec(name="clip_text_pooled", dtype="float32", shape=("batch", 1, pooled)),
        ),
        outputs=(TensorSpec(name="out_sample", dtype="float32", shape=("batch", returned, height, width)),),
        example={"batch": 2, height: sides[0], width: sides[1]},
        call=Call(keywords={"timestep": "timestep_ratio"}, results={"out_sample": "sample"}),
        wrapper="diffoundry.exporter.components.stable_cascade_unet_module:StableCascadeModule",
    )


STABLE_CASCADE_PRIOR = _kind("prior", _describe_prior)
STABLE_CASCADE_DECODER = _kind("decoder", _describe_decoder)
