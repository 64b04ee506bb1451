"""HunyuanDiT2DModel: noisy latents, a timestep and prompts of two text encoders to predicted noise.

HunyuanDiT2DControlNetModel: the same inputs and latents of a control image to residuals of its skip connections.

Li et al. 2024, Hunyuan-DiT, https://arxiv.org/abs/2405.08748.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer
from diffoundry.exporter.components.controlnet_base import (
    controlnet_component,
    declare_controlnet,
    refuse_other,
    residuals_of_blocks,
)
from diffoundry.exporter.components.latents import check_latent_channels, latent_dims, token_sides
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.formats.config_values import flag, refuse
from diffoundry.runtime.models.controlnet import block_residual_name, is_controlnet
from diffoundry.runtime.models.hunyuan_dit_2d import BERT_TOKENS, SIZE, T5_TOKENS
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["hunyuan_dit_controlnet", "hunyuan_dit_transformer"]

_CLASS, _CONTROL = "HunyuanDiT2DModel", "HunyuanDiT2DControlNetModel"
_SOURCE = "transformer"

_SAME = (
    ("in_channels", 4),
    ("patch_size", 2),
    ("num_attention_heads", 16),
    ("attention_head_dim", 88),
    ("hidden_size", 1152),
    ("cross_attention_dim", 1024),
    ("cross_attention_dim_t5", 2048),
)
"""Fields that a ControlNet has in common with its transformer, and diffusers' defaults for the transformer."""

_SIZED = "use_style_cond_and_image_meta_size"


def hunyuan_dit_controlnet(name: str) -> ComponentKind:
    """Declare the ControlNet of this name: "controlnet", "controlnet_1" ..."""
    return declare_controlnet(name, _CONTROL, _describe_controlnet)


def hunyuan_dit_transformer(*, perturbs: bool = False) -> ComponentKind:
    """Declare the denoiser.

    Args:
        perturbs: True if an input names layers whose attention is perturbed.
    """
    return ComponentKind(
        name=_SOURCE, source=_SOURCE, classes=(f"diffusers:{_CLASS}",), describe=partial(_describe, perturbs=perturbs)
    )


def _describe(configs: Configs, *, perturbs: bool) -> Component:
    config, subject = configs[_SOURCE], f"{_SOURCE}/config.json"
    channels = read_integer(configs, _SOURCE, "in_channels", 4)
    check_latent_channels(configs, _SOURCE, channels)
    predicted = channels * (2 if flag(config, "learn_sigma", default=True, subject=subject) else 1)
    inputs = _inputs(configs)
    latents = inputs[0].shape
    count = read_integer(configs, _SOURCE, "num_layers", 40)
    layers = TensorSpec(name=IDENTITY_LAYERS, dtype="float32", shape=("batch", count))
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(*inputs, *((layers,) if perturbs else ()), *_residuals(configs)),
        outputs=(TensorSpec(name="out_hidden_states", dtype="float32", shape=("batch", predicted, *latents[2:])),),
        **_common(configs),
        wrapper="diffoundry.exporter.components.hunyuan_dit_module:HunyuanDiTModule",
    )


def _describe_controlnet(name: str, configs: Configs) -> Component:
    own = {**configs[name], "num_layers": configs[name].get("transformer_num_layers", 40)}
    for field, default in (*_SAME, ("num_layers", 40)):
        found, other = (read_integer({name: config}, name, field, default) for config in (own, configs[_SOURCE]))
        if found != other:
            named = "transformer_num_layers" if field == "num_layers" else field
            raise refuse_other(name, named, found, f"the transformer has {other}")
    sized, other_sized = (_takes_sizes(configs, source) for source in (name, _SOURCE))
    if sized != other_sized:
        raise refuse_other(name, _SIZED, sized, f"the transformer has {other_sized}")
    latents, *others = _inputs(configs)
    return controlnet_component(
        name,
        _CONTROL,
        _residuals(configs),
        inputs=(latents, *others, replace(latents, name="controlnet_cond")),
        **_common(configs),
        wrapper="diffoundry.exporter.components.hunyuan_dit_module:HunyuanDiTControlNetModule",
    )


def _takes_sizes(configs: Configs, source: str) -> bool:
    return flag(configs[source], _SIZED, default=True, subject=f"{source}/config.json")


def _residuals(configs: Configs) -> tuple[TensorSpec, ...]:
    """Describe the residuals that the transformer takes of a checkpoint's ControlNets; none without any.

    Each is added to a skip connection from a block of the first half to one of the second. diffusers:
    `controlnet_block_samples` in `HunyuanDiT2DModel.forward`.
    """
    if not any(is_controlnet(name) for name in configs):
        return ()
    sides = token_sides(configs, read_integer(configs, _SOURCE, "patch_size", 2))
    count = read_integer(configs, _SOURCE, "num_layers", 40) // 2 - 1
    channels = read_integer(configs, _SOURCE, "hidden_size", 1152)
    return residuals_of_blocks(block_residual_name, count, sides, channels)


def _common(configs: Configs) -> dict[str, Any]:
    """Return the sizes of a component: those of its example, and those that it takes."""
    height, width = latent_dims(configs)
    patch = read_integer(configs, _SOURCE, "patch_size", 2)
    pixels = patch * parse_size(height).divisor
    sides = DimSpec(multiple_of=pixels)
    return {
        "example": {
            "batch": 2, height: 3 * patch, width: 4 * patch, "height": 3 * pixels, "width": 4 * pixels,
        },
        "sizes": {"height": sides, "width": sides},
    }  # fmt: skip


def _inputs(configs: Configs) -> tuple[TensorSpec, ...]:
    """Describe the inputs that the transformer and its ControlNets have in common; latents come first."""
    height, width = latent_dims(configs)
    config, subject = configs[_SOURCE], f"{_SOURCE}/config.json"
    channels = read_integer(configs, _SOURCE, "in_channels", 4)
    for name, tokens in (("text_len", BERT_TOKENS), ("text_len_t5", T5_TOKENS)):
        if config.get(name, tokens) != tokens:
            raise refuse(subject, name, config[name], f"{tokens}, as diffusers' pipeline has them")
    head = read_integer(configs, _SOURCE, "attention_head_dim", 88)
    if head % 4:
        raise refuse(subject, "attention_head_dim", head, "a multiple of 4")
    place = (*token_sides(configs, read_integer(configs, _SOURCE, "patch_size", 2)), head // 2)
    text, t5 = (
        TensorSpec(name=name, dtype="float32", shape=("batch", tokens, read_integer(configs, _SOURCE, field, default)))
        for name, tokens, field, default in (
            ("encoder_hidden_states", BERT_TOKENS, "cross_attention_dim", 1024),
            ("encoder_hidden_states_t5", T5_TOKENS, "cross_attention_dim_t5", 2048),
        )
    )
    sizes = (TensorSpec(name=SIZE, dtype="float32", shape=("batch", 6)),)
    return (
        TensorSpec(name="hidden_states", dtype="float32", shape=("batch", channels, height, width)),
        # Also between the integers, as schedulers on sigmas have them.
        TensorSpec(name="timestep", dtype="float32", shape=(1,)),
        text,
        TensorSpec(name="text_embedding_mask", dtype="float32", shape=("batch", BERT_TOKENS)),
        t5,
        TensorSpec(name="text_embedding_mask_t5", dtype="float32", shape=("batch", T5_TOKENS)),
        TensorSpec(name="rotary_cos", dtype="float32", shape=place),
        TensorSpec(name="rotary_sin", dtype="float32", shape=place),
        *(sizes if _takes_sizes(configs, _SOURCE) else ()),
    )
