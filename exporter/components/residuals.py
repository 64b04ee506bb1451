"""Interface between ControlNets and denoisers: names and shapes of the residuals, from the config of either."""

from diffoundry.exporter.component import Configs, read_integer, read_levels
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import Size, parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.controlnet import MID_RESIDUAL, residual_name

__all__ = ["UNET_CHANNELS", "layers_of_levels", "level_size", "residual_specs"]

UNET_CHANNELS = (320, 640, 1280, 1280)
"""Default of diffusers for `block_out_channels` of UNets and ControlNets."""


def residual_specs(configs: Configs, source: str, *, pooled: bool = False) -> tuple[TensorSpec, ...]:
    """Describe one tensor per skip connection of a UNet's way down, in its order, and one for its middle.

    The skip connections are the first convolution, every layer, and the downsampling between two levels, which rounds
    up. diffusers: `down_block_res_samples` in `UNet2DConditionModel.forward` and `ControlNetModel.forward`.

    Args:
        configs: Configs of the checkpoint.
        source: Folder of the UNet or of a ControlNet, which have the same way down.
        pooled: True if each tensor has one pixel, as those of a ControlNet with global pooling.

    Raises:
        ConfigError: A field is damaged.
    """
    channels = read_levels(configs, source, "block_out_channels", UNET_CHANNELS)
    skips = [(channels[0], 0)]
    for level, (width, layers) in enumerate(zip(channels, layers_of_levels(configs, source), strict=True)):
        skips += [(width, level)] * layers
        if level + 1 < len(channels):
            skips.append((width, level + 1))
    names = [residual_name(index) for index in range(len(skips))]
    shapes = [*zip(names, skips, strict=True), (MID_RESIDUAL, (channels[-1], len(channels) - 1))]
    return tuple(
        TensorSpec(
            name=name,
            dtype="float32",
            shape=("batch", width, *((1, 1) if pooled else level_size(configs, level))),
        )
        for name, (width, level) in shapes
    )


def layers_of_levels(configs: Configs, source: str) -> list[int]:
    """Read `layers_per_block` as one number per level."""
    levels = len(read_levels(configs, source, "block_out_channels", UNET_CHANNELS))
    if not isinstance(configs[source].get("layers_per_block"), list):
        return [read_integer(configs, source, "layers_per_block", 2)] * levels
    layers = read_levels(configs, source, "layers_per_block", ())
    if len(layers) != levels:
        raise refuse(
            f"{source}/config.json", "layers_per_block", list(layers), f"one number, or one for {levels} levels"
        )
    return list(layers)


def level_size(configs: Configs, level: int) -> tuple[str, str]:
    """Height and width of a level; halving twice, rounded up each time, is quartering rounded up."""
    height, width = latent_dims(configs)
    if level == 0:
        return height, width
    tall, wide = (parse_size(side) for side in (height, width))
    return str(Size(tall.symbol, tall.divisor << level, up=True)), str(
        Size(wide.symbol, wide.divisor << level, up=True)
    )
