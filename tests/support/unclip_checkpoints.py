"""Writes tiny random checkpoints of unCLIP and Stable unCLIP, one for each of their pipeline classes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from tiny_checkpoints import EMOJI, SCHEDULE
from tiny_networks import VISION, VOCABULARY, feature_extractor, vae_tiny

__all__ = ["UNCLIP_CHECKPOINTS", "WIDTH"]

WIDTH = 32
"""Of CLIP's embeddings."""

_FEW = {"num_train_timesteps": 5}
"""A run begins with a division by the root of the last alpha_bar: by 5e-5 of 1000 training steps, by 1e-2 of 5.
So that the last bits of a noise do not show, networks also predict little of it."""

_COSINE = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 20}


def _write(folder: Path, name: str) -> None:
    """Write the checkpoint of a class; all weights are random, those included that start as zeros."""
    stable = name.startswith("Stable")
    parts = {**(_stable_networks() if stable else _networks(7, 21)), **_HEADS[name]()}
    for part in parts.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            if not parameter.any():
                parameter.data = 0.3 * torch.randn(parameter.shape)
    for part in () if stable else ("decoder", "super_res_first", "super_res_last"):
        parts[part].conv_out.weight.data *= 0.1
        parts[part].conv_out.bias.data *= 0.1
    getattr(diffusers, name)(**parts).save_pretrained(folder)
    if not stable:
        path = folder / "model_index.json"
        index = json.loads(path.read_text())
        path.write_text(json.dumps({**index, "text_proj": ["unclip", "UnCLIPTextProjModel"]}))  # as Karlo's has it


def _text_encoder(kind: Any, **more: Any) -> Any:
    config = transformers.CLIPTextConfig(
        **VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, **more
    )
    return kind(config)


def _projected_encoder() -> Any:
    return _text_encoder(transformers.CLIPTextModelWithProjection, projection_dim=WIDTH)


def _tokenizer() -> Any:
    return transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")


def _super_res(size: int | None) -> Any:
    return diffusers.UNet2DModel(
        sample_size=size,
        in_channels=6,
        out_channels=3,
        down_block_types=("ResnetDownsampleBlock2D",),
        up_block_types=("ResnetUpsampleBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        add_attention=False,
    )


def _networks(small: int, large: int) -> dict[str, Any]:
    decoder = diffusers.UNet2DConditionModel(
        sample_size=small,
        in_channels=3,
        out_channels=6,
        down_block_types=("SimpleCrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        attention_head_dim=16,
        norm_num_groups=8,
        cross_attention_dim=24,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
    )
    return {
        "text_encoder": _projected_encoder(),
        "text_proj": UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=64, cross_attention_dim=24),
        "decoder": decoder,
        "super_res_first": _super_res(large),
        "super_res_last": _super_res(None),  # as Karlo's config
        "decoder_scheduler": diffusers.UnCLIPScheduler(variance_type="learned_range", **_FEW),
        "super_res_scheduler": diffusers.UnCLIPScheduler(**_FEW),
        "tokenizer": _tokenizer(),
    }


def _stable_networks() -> dict[str, Any]:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(32,),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * WIDTH,
    )
    return {
        "text_encoder": _text_encoder(transformers.CLIPTextModel),
        "tokenizer": _tokenizer(),
        "unet": unet,
        "vae": vae_tiny(),
        "scheduler": diffusers.DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, clip_sample=False),
        "image_normalizer": StableUnCLIPImageNormalizer(WIDTH),
        "image_noising_scheduler": diffusers.DDPMScheduler(**_COSINE),
    }


def _image_encoder() -> dict[str, Any]:
    config = transformers.CLIPVisionConfig(**VISION, projection_dim=WIDTH)
    return {
        "image_encoder": transformers.CLIPVisionModelWithProjection(config),
        "feature_extractor": feature_extractor(),
    }


def _prior() -> Any:
    return diffusers.PriorTransformer(num_attention_heads=2, attention_head_dim=16, num_layers=1, embedding_dim=WIDTH)


def _prior_alone() -> dict[str, Any]:
    scheduler = diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0)
    return {"prior": _prior(), "prior_scheduler": scheduler}


def _prior_with_texts() -> dict[str, Any]:
    scheduler = diffusers.DDPMScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0, **_COSINE
    )
    return {
        "prior": _prior(),
        "prior_scheduler": scheduler,
        "prior_text_encoder": _projected_encoder(),
        "prior_tokenizer": _tokenizer(),
    }


_HEADS = {
    "UnCLIPPipeline": _prior_alone,
    "UnCLIPImageVariationPipeline": _image_encoder,
    "StableUnCLIPPipeline": _prior_with_texts,
    "StableUnCLIPImg2ImgPipeline": _image_encoder,
}
"""Class to the networks that make its image embeddings."""

UNCLIP_CHECKPOINTS = {name: partial(_write, name=name) for name in _HEADS}
"""Class to the function that writes its checkpoint into a folder."""
