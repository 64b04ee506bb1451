"""QwenImageTransformer2DModel: tokens of noisy latents, a timestep and prompts to the velocity for flow matching.

Qwen team 2025, https://arxiv.org/abs/2508.02324.
"""

from dataclasses import replace
from functools import partial

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.qwen_image_controlnet import (
    control_residuals,
    network_inputs,
    network_sizes,
)
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import flag, refuse
from diffoundry.runtime.models.flux_transformer_2d import PATCH, SIDE
from diffoundry.runtime.models.qwen_image_transformer_2d import LAYERED_SIDE, read_layout
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["qwen_image_transformer"]

_CLASS = "QwenImageTransformer2DModel"
_SOURCE = "transformer"


def qwen_image_transformer(tokens: int, *, reference: bool = False, layers: int = 0) -> ComponentKind:
    """Declare the denoiser of Qwen-Image.

    Args:
        tokens: Tokens of a prompt by default.
        reference: True if the network also sees the tokens of other images.
        layers: Layers of an image by default, with the whole image; 0 for a network without layers.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=(f"diffusers:{_CLASS}",),
        describe=partial(_describe, tokens=tokens, reference=reference, layers=layers),
    )


def _describe(configs: Configs, *, tokens: int, reference: bool, layers: int) -> Component:
    config, subject = configs[_SOURCE], f"{_SOURCE}/config.json"
    layout = read_layout(config, subject, layered=layers > 0)
    channels = PATCH**2 * read_integer(configs, "vae", "z_dim", 16)
    for name, found in (("in_channels", layout.in_channels), ("out_channels", layout.out_channels)):
        if found != channels:
            raise refuse(subject, name, found, f"{channels}, 2 x 2 times the z_dim of the VAE")
    if flag(config, "zero_cond_t", default=False, subject=subject) and not reference:
        raise refuse(subject, "zero_cond_t", True, "false: only a pipeline that edits images has other images")
    half = sum(layout.axes) // 2
    states, *others = network_inputs(configs, layered=layers > 0)
    sizes = network_sizes(configs, tokens)
    if reference:
        sizes["usual"]["reference"] = (SIDE // PATCH) ** 2
    if layers:
        width = LAYERED_SIDE // parse_size(str(states.shape[2])).divisor
        sizes["example"]["rows"] = 10
        sizes["usual"] |= {"rows": layers * width, "width": LAYERED_SIDE, "reference": width**2}
        del sizes["usual"]["height"], sizes["example"]["height"]
    other = (
        TensorSpec(name="reference_hidden_states", dtype="float32", shape=("batch", "reference", channels)),
        TensorSpec(name="reference_cos", dtype="float32", shape=("reference", half)),
        TensorSpec(name="reference_sin", dtype="float32", shape=("reference", half)),
    )
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            states,
            *others,
            *(other if reference else ()),
            *(() if layers else control_residuals(configs)),
        ),
        outputs=(replace(states, name="out_hidden_states"),),
        wrapper="diffoundry.exporter.components.qwen_image_transformer_module:QwenImageModule",
        **{**sizes, "example": {**sizes["example"], "reference": 11}},
    )
