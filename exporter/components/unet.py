"""UNet2DConditionModel: noisy latents or pixels, a timestep and conditions to the scheduler's prediction type."""

from collections.abc import Callable, Collection
from typing import Any

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer, read_levels
from diffoundry.exporter.components.adapter_features import feature_inputs, feature_keywords
from diffoundry.exporter.components.image_prompts import image_prompt_inputs, image_prompt_sizes
from diffoundry.exporter.components.latents import latent_dims, trained_size
from diffoundry.exporter.components.residuals import UNET_CHANNELS, layers_of_levels, residual_specs
from diffoundry.exporter.components.unet_conditions import ADDED_KEYWORDS, condition_inputs
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.controlnet import MID_RESIDUAL
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.perturbed_unet import self_attentions
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.sample_size import HINT_CHANNELS, HINT_FACTOR

__all__ = ["UNET", "unet_2d_condition"]

_CLASS = "UNet2DConditionModel"

_TO_ANY_SIZE = ("UpBlock2D", "CrossAttnUpBlock2D")
"""Blocks that upsample to the size of the next skip connection; others double the size."""


def unet_2d_condition(
    name: str = "unet",
    *,
    role: str = DENOISER,
    dims: Callable[[Configs], tuple[str, str]] = latent_dims,
    feeds: Collection[str] = (),
    attention_mask: bool = False,
    optional: bool = False,
    perturbs: bool = False,
) -> ComponentKind:
    """Declare a UNet with cross attention.

    Args:
        name: Folder in the checkpoint and in the bundle: "unet", "decoder" ...
        role: One of `runtime.models.roles.ROLES`.
        dims: Returns height and width of its input as symbols of the image's, from the checkpoint's configs.
        feeds: Names of inputs that its pipeline feeds beside text and sizes: "class_labels", "image_embeds", "hint".
        attention_mask: True if its pipeline feeds a mask of the text's tokens.
        optional: True if a checkpoint may lack it.
        perturbs: True if an input names layers whose self-attention is perturbed.
    """

    def describe(configs: Configs) -> Component:
        conditions = condition_inputs(configs, name, feeds=feeds, mask=attention_mask)
        if perturbs:
            count = len(self_attentions(configs[name], f"{name}/config.json"))
            conditions += (TensorSpec(name=IDENTITY_LAYERS, dtype="float32", shape=("batch", count)),)
        return _describe(configs, name, role, dims(configs), conditions)

    return ComponentKind(name=name, source=name, classes=(f"diffusers:{_CLASS}",), describe=describe, optional=optional)


def _describe(
    configs: Configs, name: str, role: str, dims: tuple[str, str], conditions: tuple[TensorSpec, ...]
) -> Component:
    height, width = dims
    factor = parse_size(height).divisor
    prompts, usual = image_prompt_sizes(configs)
    layers_of_levels(configs, name)
    sizes, (rows, columns) = _sizes(configs, name, factor)
    output = TensorSpec(
        name="out_sample",
        dtype="float32",
        shape=("batch", read_integer(configs, name, "out_channels", 4), height, width),
    )
    return Component(
        name=name,
        role=role,
        network=_CLASS,
        source=name,
        inputs=(
            TensorSpec(
                name="sample", dtype="float32", shape=("batch", _sample_channels(configs, name, factor), height, width)
            ),
            # A float, since samplers on sigmas use timesteps between the integers.
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            *conditions,
            *_residual_inputs(configs, name),
            *feature_inputs(configs, name),
            *image_prompt_inputs(configs, name),
        ),
        outputs=(output,),
        example={
            "batch": 2, height: rows, width: columns, "sequence": 7, "height": rows * factor, "width": columns * factor,
            **prompts,
        },
        call=Call(
            keywords={**ADDED_KEYWORDS, **_residual_keywords(configs, name), **feature_keywords(configs, name)},
            results={"out_sample": "sample"},
            options=_options(conditions),
        ),
        sizes=sizes,
        usual={**trained_size(configs, name, dims), **usual},
        wrapper="diffoundry.exporter.components.adapted_unet:AdaptedUNet",
    )  # fmt: skip


def _options(conditions: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """Return the argument that diffusers' `forward` demands also of networks that read no text."""
    names = {spec.name for spec in conditions}
    return {} if "encoder_hidden_states" in names else {"encoder_hidden_states": None}


def _sample_channels(configs: Configs, name: str, factor: int) -> int:
    """Read the channels of the sample; those of a hint are appended within the network.

    Raises:
        ConfigError: The network halves its hint less or more often than the VAE halves the image.
    """
    channels = read_integer(configs, name, "in_channels", 4)
    if configs[name].get("addition_embed_type") != "image_hint":
        return channels
    subject = f"{name}/config.json"
    if factor != HINT_FACTOR:
        raise ConfigError(
            f"{subject}: field 'addition_embed_type': got 'image_hint', which makes one latent of {HINT_FACTOR} pixels "
            f"a side, but the VAE of {factor}; the UNet was made for another VAE"
        )
    if channels <= HINT_CHANNELS:
        raise refuse(subject, "in_channels", channels, f"more than {HINT_CHANNELS}, the channels of the hint")
    return channels - HINT_CHANNELS


def _sizes(configs: Configs, name: str, factor: int) -> tuple[dict[str, DimSpec], tuple[int, int]]:
    """Compute the sizes in pixels that the network takes, and the height and width of the example's sample.

    Where every block takes any size, the example's sizes can be halved at no level. So diffusers takes the branch that
    resizes to the size of the skip connection, which is right for every size. The branch that doubles is right only
    where each level divides by two.
    """
    blocks = configs[name].get("up_block_types", ())
    if not isinstance(blocks, list | tuple) or not all(isinstance(block, str) for block in blocks):
        raise refuse(f"{name}/config.json", "up_block_types", blocks, "a list of names of blocks")
    blocks = [block.removeprefix("UNetRes") for block in blocks]  # as diffusers reads old configs
    if all(block in _TO_ANY_SIZE for block in blocks[:-1]):
        return {}, (9, 11)
    steps = 2 ** (len(read_levels(configs, name, "block_out_channels", UNET_CHANNELS)) - 1)
    # Filters of K blocks mirror one pixel beyond the border, so the coarsest level needs two.
    least = 2 * steps * factor if any(block.startswith("K") for block in blocks) else 1
    sides = DimSpec(min=least, multiple_of=steps * factor)
    return {"height": sides, "width": sides}, (3 * steps, 5 * steps)


def _residual_inputs(configs: Configs, name: str) -> tuple[TensorSpec, ...]:
    """Describe the residuals of ControlNets, in a checkpoint that has any."""
    return residual_specs(configs, name) if "controlnet" in configs else ()


def _residual_keywords(configs: Configs, name: str) -> dict[str, str]:
    names = [spec.name for spec in _residual_inputs(configs, name) if spec.name != MID_RESIDUAL]
    down = {name: f"down_block_additional_residuals.{index}" for index, name in enumerate(names)}
    return {**down, MID_RESIDUAL: "mid_block_additional_residual"}


UNET = unet_2d_condition()
"""The UNet of Stable Diffusion."""
