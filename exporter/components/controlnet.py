"""ControlNetModel: the denoiser's inputs and a control image to residuals for the denoiser.

Zhang et al. 2023, https://arxiv.org/abs/2302.05543.
"""

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer, read_levels
from diffoundry.exporter.components.controlnet_base import declare_controlnet, refuse_other
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.exporter.components.residuals import UNET_CHANNELS, layers_of_levels, residual_specs
from diffoundry.exporter.components.unet_conditions import ADDED_KEYWORDS, condition_width, size_inputs
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import flag
from diffoundry.runtime.models.roles import CONTROLNET

__all__ = ["CONTROLNET_CLASS", "controlnet"]

CONTROLNET_CLASS = "ControlNetModel"

_UNKNOWN_INPUTS = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
"""Fields that require an input which no pipeline here can feed."""

_IMAGE_CHANNELS = 3
"""Red, green and blue: the channels that a pipeline feeds."""


def controlnet(name: str) -> ComponentKind:
    """Declare the ControlNet of this name; diffusers saves several as "controlnet", "controlnet_1" ..."""
    return declare_controlnet(name, CONTROLNET_CLASS, _describe)


def _describe(name: str, configs: Configs) -> Component:
    _check_own(name, configs)
    _check_same(name, configs)
    height, width = latent_dims(configs)
    factor = parse_size(height).divisor
    pooled = flag(configs[name], "global_pool_conditions", default=False, subject=f"{name}/config.json")
    outputs = residual_specs(configs, name, pooled=pooled)
    return Component(
        name=name,
        role=CONTROLNET,
        network=CONTROLNET_CLASS,
        source=name,
        inputs=(
            TensorSpec(
                name="sample",
                dtype="float32",
                shape=("batch", read_integer(configs, name, "in_channels", 4), height, width),
            ),
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(
                name="encoder_hidden_states",
                dtype="float32",
                shape=("batch", "sequence", condition_width(configs, name)),
            ),
            TensorSpec(
                name="controlnet_cond", dtype="float32", shape=("batch", _IMAGE_CHANNELS, "height", "width")
            ),
            *size_inputs(configs, name),
        ),
        outputs=outputs,
        example={
            "batch": 2, height: 9, width: 11, "sequence": 7, "height": 9 * factor, "width": 11 * factor
        },
        call=Call(
            keywords=ADDED_KEYWORDS,
            results={
                **{spec.name: f"down_block_res_samples.{index}" for index, spec in enumerate(outputs[:-1])},
                outputs[-1].name: "mid_block_res_sample",
            },
        ),
    )  # fmt: skip


def _check_own(name: str, configs: Configs) -> None:
    """Check that a pipeline can feed this ControlNet."""
    config = configs[name]
    for key in _UNKNOWN_INPUTS:
        if config.get(key) is not None:
            raise ConfigError(
                f"{name}/config.json: field {key!r}: got {config[key]!r}, expected null; it is not supported"
            )
    channels = config.get("conditioning_channels", _IMAGE_CHANNELS)
    if channels != _IMAGE_CHANNELS:
        raise ConfigError(
            f"{name}/config.json: field 'conditioning_channels': got {channels!r}, expected {_IMAGE_CHANNELS}: it is "
            f"fed images in RGB"
        )


def _check_same(name: str, configs: Configs) -> None:
    """Check that a ControlNet matches the denoiser and its latents."""
    channels, unet = (list(read_levels(configs, one, "block_out_channels", UNET_CHANNELS)) for one in (name, "unet"))
    _compare(name, "block_out_channels", channels, f"the UNet has {unet}", same=channels == unet)
    layers, others = layers_of_levels(configs, name), layers_of_levels(configs, "unet")
    _compare(name, "layers_per_block", layers, f"the UNet has {others}", same=layers == others)
    width, other = condition_width(configs, name), condition_width(configs)
    _compare(name, "cross_attention_dim", width, f"the UNet has {other}", same=width == other)
    taken, latent = read_integer(configs, name, "in_channels", 4), read_integer(configs, "vae", "latent_channels", 4)
    _compare(name, "in_channels", taken, f"the VAE's latents have {latent}", same=taken == latent)
    steps = list(read_levels(configs, name, "conditioning_embedding_out_channels", (16, 32, 96, 256)))
    factor, whole = 1 << (len(steps) - 1), parse_size(latent_dims(configs)[0]).divisor
    _compare(
        name,
        "conditioning_embedding_out_channels",
        f"{steps}, for {factor} pixels to a latent",
        f"the VAE has {whole}",
        same=factor == whole,
    )


def _compare(name: str, field: str, found: object, expected: str, *, same: bool) -> None:
    if not same:
        raise refuse_other(name, field, found, expected)
