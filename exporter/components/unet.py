"""UNet2DConditionModel: noisy latents, a timestep and a condition to the scheduler's prediction type."""

from diffoundry.exporter.component import Call, Component, ComponentKind, Configs, read_integer, read_levels
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.exporter.components.residuals import layers_of_levels, residual_specs
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.controlnet import MID_RESIDUAL
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["ADDED_KEYWORDS", "UNET", "condition_width", "size_inputs"]

_UNKNOWN_INPUTS = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
"""Fields that require an input which no pipeline here can feed."""

ADDED_KEYWORDS = {name: f"added_cond_kwargs.{name}" for name in ("text_embeds", "time_ids")}
"""Inputs that diffusers' UNet and ControlNet take in one dictionary, to their keywords."""


def _describe(configs: Configs) -> Component:
    height, width = latent_dims(configs)
    config = configs["unet"]
    for key in _UNKNOWN_INPUTS:
        if config.get(key) is not None:
            raise ConfigError(
                f"unet/config.json: field {key!r}: got {config[key]!r}, expected null; it is not supported"
            )
    layers_of_levels(configs, "unet")
    channels = read_integer(configs, "unet", "in_channels", 4)
    factor = parse_size(height).divisor
    # The example's sizes can be halved at no level. So diffusers takes the branch that resizes to the size of the skip
    # connection, which is right for every size. The branch that doubles is right only where each level divides by two.
    return Component(
        name="unet",
        role=DENOISER,
        network="UNet2DConditionModel",
        source="unet",
        inputs=(
            TensorSpec(name="sample", dtype="float32", shape=("batch", channels, height, width)),
            # A float, since samplers on sigmas use timesteps between the integers.
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(
                name="encoder_hidden_states", dtype="float32", shape=("batch", "sequence", condition_width(configs))
            ),
            *_guidance_input(configs),
            *size_inputs(configs),
            *_residual_inputs(configs),
        ),
        outputs=(
            TensorSpec(
                name="out_sample",
                dtype="float32",
                shape=("batch", read_integer(configs, "unet", "out_channels", 4), height, width),
            ),
        ),
        example={
            "batch": 2, height: 9, width: 11, "sequence": 7, "height": 9 * factor, "width": 11 * factor
        },
        call=Call(keywords={**ADDED_KEYWORDS, **_residual_keywords(configs)}, results={"out_sample": "sample"}),
    )  # fmt: skip


def condition_width(configs: Configs, source: str = "unet") -> int:
    """Width of the conditioning of a UNet or ControlNet.

    Raises:
        ConfigError: It differs between levels.
    """
    width = configs[source].get("cross_attention_dim", 1280)
    if isinstance(width, list):
        widths = set(read_levels(configs, source, "cross_attention_dim", ()))
        width = widths.pop() if len(widths) == 1 else width
    if isinstance(width, list):
        raise ConfigError(
            f"{source}/config.json: field 'cross_attention_dim': got {width!r}, expected one number for all levels; "
            f"levels of different width are not supported"
        )
    return read_integer({source: {"cross_attention_dim": width}}, source, "cross_attention_dim", None)


def _guidance_input(configs: Configs) -> tuple[TensorSpec, ...]:
    """Embedded guidance scale of distilled checkpoints (Luo et al. 2023, https://arxiv.org/abs/2310.04378, 4.1)."""
    width = integer(configs["unet"], "time_cond_proj_dim", None, subject="unet/config.json", minimum=4)
    return () if width is None else (TensorSpec(name="timestep_cond", dtype="float32", shape=("batch", width)),)


def size_inputs(configs: Configs, source: str = "unet") -> tuple[TensorSpec, ...]:
    """Describe pooled text and image sizes, as Stable Diffusion XL takes them (Podell et al. 2023, 2307.01952, 2.2).

    Raises:
        ConfigError: The UNet, or ControlNet, adds something else to its timestep.
    """
    kind = configs[source].get("addition_embed_type")
    if kind is None:
        return ()
    if kind != "text_time" or "text_encoder_2" not in configs:
        raise ConfigError(
            f"{source}/config.json: field 'addition_embed_type': got {kind!r}, expected null, or 'text_time' in a "
            f"checkpoint with a text_encoder_2; nothing else is supported"
        )
    pooled = read_integer(configs, "text_encoder_2", "projection_dim", 512)
    width = read_integer(configs, source, "projection_class_embeddings_input_dim", None) - pooled
    numbers = width // read_integer(configs, source, "addition_time_embed_dim", None)
    return (
        TensorSpec(name="text_embeds", dtype="float32", shape=("batch", pooled)),
        TensorSpec(name="time_ids", dtype="float32", shape=("batch", numbers)),
    )


def _residual_inputs(configs: Configs) -> tuple[TensorSpec, ...]:
    """Describe the residuals of ControlNets, in a checkpoint that has any."""
    return residual_specs(configs, "unet") if "controlnet" in configs else ()


def _residual_keywords(configs: Configs) -> dict[str, str]:
    names = [spec.name for spec in _residual_inputs(configs) if spec.name != MID_RESIDUAL]
    down = {name: f"down_block_additional_residuals.{index}" for index, name in enumerate(names)}
    return {**down, MID_RESIDUAL: "mid_block_additional_residual"}


UNET = ComponentKind(name="unet", source="unet", classes=("diffusers:UNet2DConditionModel",), describe=_describe)
