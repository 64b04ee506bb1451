"""ZImageTransformer2DModel: tokens of noisy latents, a time and a caption to the negative velocity.

Z-Image, Tongyi Lab 2025, https://arxiv.org/abs/2511.22699.
"""

from functools import partial

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs
from diffoundry.exporter.components.latents import check_latent_channels, latent_dims
from diffoundry.exporter.components.z_image_controlnet import control_residuals, network_inputs, network_sizes
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.causal_lm import read_causal_layout
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.z_image_transformer_2d import PATCH, read_layout

__all__ = ["describe_transformer", "z_image_transformer"]

_CLASS = "ZImageTransformer2DModel"
_SOURCE = "transformer"


def z_image_transformer(tokens: int) -> ComponentKind:
    """Declare the denoiser of Z-Image.

    Args:
        tokens: Tokens of a caption by default, a multiple of 32.
    """
    return ComponentKind(
        name=_SOURCE,
        source=_SOURCE,
        classes=(f"diffusers:{_CLASS}",),
        describe=partial(describe_transformer, tokens=tokens),
    )


def describe_transformer(configs: Configs, *, tokens: int) -> Component:
    """Describe the denoiser of a checkpoint; `tokens` as in `z_image_transformer`.

    Raises:
        ConfigError: A value of its config does not fit the VAE, the text encoder or the number of tokens.
    """
    subject = f"{_SOURCE}/config.json"
    factor = parse_size(latent_dims(configs)[0]).divisor
    layout = read_layout(configs[_SOURCE], subject)
    check_latent_channels(configs, _SOURCE, layout.channels)
    text = read_causal_layout(configs["text_encoder"], "text_encoder/config.json").width
    if layout.text_width != text:
        raise refuse(subject, "cap_feat_dim", layout.text_width, f"{text}, the hidden_size of the text encoder")
    if layout.lengths[0] <= tokens + 1:
        raise refuse(subject, "axes_lens", list(layout.lengths), f"more than {tokens + 1} positions for a caption")
    grid = "batch", *(f"{side}/{factor * PATCH}" for side in ("height", "width"))
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(*network_inputs(configs), *control_residuals(configs)),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=(*grid, layout.token)),),
        call=Call(keywords={"timestep": "t"}),
        wrapper="diffoundry.exporter.components.z_image_transformer_module:ZImageModule",
        **network_sizes(configs, tokens),
    )
