"""Interface between T2I-Adapters and denoisers: names and shapes of the features, from the config of the denoiser."""

from typing import NamedTuple

from diffoundry.exporter.component import Configs, read_integer, read_levels
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.exporter.components.residuals import UNET_CHANNELS
from diffoundry.runtime.bundle.dims import Size, parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.t2i_adapter import feature_name, is_t2i_adapter

__all__ = ["FEATURE_KEYWORD", "Feature", "adapter_features", "denoiser_features", "feature_inputs", "feature_keywords"]

FEATURE_KEYWORD = "down_intrablock_additional_residuals"
"""Argument of `UNet2DConditionModel.forward` that takes the features, in a list."""

_DOWN_BLOCKS = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
"""Default of diffusers for `down_block_types`."""

_ATTENDING = "CrossAttn"
"""In the names of blocks with cross attention, which add a feature before they halve the size."""


class Feature(NamedTuple):
    """A feature map.

    Attributes:
        channels: Number of channels.
        factor: Pixels of the image to a side of one value.
    """

    channels: int
    factor: int


def denoiser_features(configs: Configs, source: str = "unet") -> tuple[Feature, ...]:
    """List the features that a denoiser can add, in order: one in each block of its first half, one in its middle.

    diffusers: `UNet2DConditionModel.forward`.

    Raises:
        ConfigError: A field is damaged.
    """
    channels = read_levels(configs, source, "block_out_channels", UNET_CHANNELS)
    blocks = configs[source].get("down_block_types", list(_DOWN_BLOCKS))
    if not isinstance(blocks, list | tuple) or len(blocks) != len(channels):
        raise refuse(f"{source}/config.json", "down_block_types", blocks, f"{len(channels)} names of blocks")
    first, last = parse_size(latent_dims(configs)[0]).divisor, len(channels) - 1
    levels = [level if _ATTENDING in str(block) else min(level + 1, last) for level, block in enumerate(blocks)]
    found = [Feature(width, first << level) for width, level in zip(channels, levels, strict=True)]
    return (*found, Feature(channels[-1], first << last))


def adapter_features(configs: Configs, name: str) -> tuple[Feature, ...]:
    """List the features that an adapter makes. diffusers: `FullAdapter`, `FullAdapterXL`, `LightAdapter`.

    Raises:
        ConfigError: A field is damaged, or the kind is unknown.
    """
    channels = read_levels(configs, name, "channels", UNET_CHANNELS)
    factor = read_integer(configs, name, "downscale_factor", 8)
    kind = configs[name].get("adapter_type", "full_adapter")
    if kind == "full_adapter":
        return tuple(Feature(width, factor << level) for level, width in enumerate(channels))
    if kind == "full_adapter_xl":
        return tuple(Feature(width, factor << (level > 1)) for level, width in enumerate(channels))
    if kind == "light_adapter":
        return tuple(Feature(width, factor << level) for level, width in enumerate((*channels, channels[-1])))
    raise refuse(f"{name}/config.json", "adapter_type", kind, "'full_adapter', 'full_adapter_xl' or 'light_adapter'")


def feature_inputs(configs: Configs, source: str) -> tuple[TensorSpec, ...]:
    """Describe the denoiser's inputs for features, in a checkpoint that has T2I-Adapters: as many as they make."""
    names = [name for name in configs if is_t2i_adapter(name)]
    if not names:
        return ()
    count = max(len(adapter_features(configs, name)) for name in names)
    first = parse_size(latent_dims(configs)[0]).divisor
    return tuple(
        TensorSpec(
            name=feature_name(index),
            dtype="float32",
            shape=("batch", width, *(str(Size(side, factor, up=factor > first)) for side in ("height", "width"))),
        )
        for index, (width, factor) in enumerate(denoiser_features(configs, source)[:count])
    )


def feature_keywords(configs: Configs, source: str) -> dict[str, str]:
    """Map the denoiser's inputs for features to the keywords of its `forward`."""
    return {spec.name: f"{FEATURE_KEYWORD}.{index}" for index, spec in enumerate(feature_inputs(configs, source))}
