"""Defaults of diffusers and transformers for fields of config.json that decide a network's interface.

Old configs, and those of trainers, lack fields that the libraries fill in.
"""

from collections.abc import Mapping
from typing import Any

from diffoundry.exporter.component import Config

__all__ = ["DEFAULTS", "complete_config"]

_UNET = {
    "in_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 1280,
}
_SANA = {
    "in_channels": 32,
    "out_channels": 32,
    "caption_channels": 2304,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_layers": 20,
    "patch_size": 1,
    "sample_size": 32,
}
_CLIP_TEXT = {"hidden_size": 512, "num_hidden_layers": 12, "projection_dim": 512}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "UNet2DConditionModel": {**_UNET, "out_channels": 4},
    "UNet2DModel": {"in_channels": 3, "out_channels": 3, "block_out_channels": [224, 448, 672, 896]},
    "ControlNetModel": {**_UNET, "conditioning_embedding_out_channels": [16, 32, 96, 256]},
    "AutoencoderKL": {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [64]},
    "AutoencoderKLFlux2": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 32,
        "block_out_channels": [128, 256, 512, 512],
    },
    "VQModel": {"in_channels": 3, "out_channels": 3, "latent_channels": 3, "block_out_channels": [64]},
    "LDMBertModel": {"d_model": 1280, "max_position_embeddings": 77},
    "AutoencoderTiny": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "encoder_block_out_channels": [64, 64, 64, 64],
        "decoder_block_out_channels": [64, 64, 64, 64],
    },
    "AutoencoderDC": {
        "in_channels": 3,
        "latent_channels": 32,
        "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
        "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    },
    "SD3Transformer2DModel": {
        "in_channels": 16,
        "out_channels": 16,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
        "patch_size": 2,
        "pos_embed_max_size": 96,
        "num_layers": 18,
    },
    "SD3ControlNetModel": {
        "in_channels": 16,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
        "patch_size": 2,
        "pos_embed_max_size": 96,
        "num_layers": 18,
        "extra_conditioning_channels": 0,
    },
    "FluxTransformer2DModel": {
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
    },
    "ChromaTransformer2DModel": {
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
    },
    "AuraFlowTransformer2DModel": {
        "in_channels": 4,
        "out_channels": 4,
        "joint_attention_dim": 2048,
        "patch_size": 2,
        "pos_embed_max_size": 1024,
    },
    "FluxControlNetModel": {
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "num_layers": 19,
        "num_single_layers": 38,
        "patch_size": 1,
        "num_mode": None,
        "conditioning_embedding_channels": None,
    },
    "ZImageTransformer2DModel": {
        "in_channels": 16,
        "dim": 3840,
        "n_heads": 30,
        "cap_feat_dim": 2560,
        "siglip_feat_dim": None,
        "rope_theta": 256.0,
        "axes_dims": [32, 48, 48],
        "axes_lens": [1024, 512, 512],
    },
    "ZImageControlNetModel": {
        "control_layers_places": None,
        "control_refiner_layers_places": None,
        "control_in_dim": None,
        "add_control_noise_refiner": None,
        "dim": 3840,
        "n_heads": 30,
        "n_refiner_layers": 2,
    },
    "QwenImageTransformer2DModel": {
        "in_channels": 64,
        "out_channels": 16,
        "joint_attention_dim": 3584,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
    },
    "QwenImage21Transformer2DModel": {
        "in_channels": 64,
        "out_channels": 64,
        "num_attention_heads": 32,
        "context_in_dim": 4096,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "patch_size": 1,
        "causal_condition": True,
    },
    "QwenImageControlNetModel": {
        "in_channels": 64,
        "out_channels": 16,
        "joint_attention_dim": 3584,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "num_layers": 60,
        "extra_condition_channels": 0,
    },
    "AutoencoderKLQwenImage": {
        "input_channels": 3,
        "z_dim": 16,
        "dim_mult": [1, 2, 4, 4],
        "temperal_downsample": [False, True, True],
    },
    "AutoencoderKLQwenImage21": {
        "in_channels": 4,
        "out_channels": 4,
        "z_dim": 64,
        "dim_mult": [1, 2, 4, 8, 8],
        "temperal_downsample": [False, True, True, True],
    },
    "Flux2Transformer2DModel": {
        "in_channels": 128,
        "joint_attention_dim": 15360,
        "attention_head_dim": 128,
        "axes_dims_rope": [32, 32, 32, 32],
    },
    "Lumina2Transformer2DModel": {
        "in_channels": 16,
        "hidden_size": 2304,
        "num_attention_heads": 24,
        "patch_size": 2,
        "sample_size": 128,
        "axes_dim_rope": [32, 32, 32],
        "axes_lens": [300, 512, 512],
        "cap_feat_dim": 1024,
    },
    "HunyuanDiT2DModel": {
        "attention_head_dim": 88,
        "cross_attention_dim": 1024,
        "cross_attention_dim_t5": 2048,
        "text_len": 77,
        "text_len_t5": 256,
    },
    "HunyuanDiT2DControlNetModel": {
        "attention_head_dim": 88,
        "cross_attention_dim": 1024,
        "cross_attention_dim_t5": 2048,
        "transformer_num_layers": 40,
    },
    "BertModel": {"hidden_size": 768},
    "DiTTransformer2DModel": {"in_channels": 4, "patch_size": 2, "sample_size": 32, "num_embeds_ada_norm": 1000},
    "PixArtTransformer2DModel": {"in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": 128},
    "SanaTransformer2DModel": _SANA,
    "SanaControlNetModel": {**_SANA, "num_layers": 7},
    "CLIPTextModel": _CLIP_TEXT,
    "CLIPTextModelWithProjection": _CLIP_TEXT,
    "CLIPVisionModel": {"hidden_size": 768},
    "CLIPVisionModelWithProjection": {"projection_dim": 512},
    "DPTForDepthEstimation": {"image_size": 384, "num_channels": 3, "patch_size": 16},
    "T2IAdapter": {"in_channels": 3, "channels": [320, 640, 1280, 1280], "downscale_factor": 8},
    "T5EncoderModel": {"d_model": 512},
    "UMT5EncoderModel": {"d_model": 512},
    "PriorTransformer": {"embedding_dim": 768, "num_embeddings": 77, "encoder_hid_proj_type": "linear"},
    "UnCLIPTextProjModel": {"clip_extra_context_tokens": 4, "clip_embeddings_dim": 768},
    "StableUnCLIPImageNormalizer": {"embedding_dim": 768},
    "StableCascadeUNet": {"in_channels": 16, "out_channels": 16, "patch_size": 1, "block_out_channels": [2048, 2048]},
    "Kandinsky3UNet": {"in_channels": 4, "encoder_hid_dim": 4096, "block_out_channels": [384, 768, 1536, 3072]},
    "PaellaVQModel": {"out_channels": 3, "latent_channels": 4, "levels": 2, "up_down_scale_factor": 2},
    "WuerstchenPrior": {"c_in": 16, "c_cond": 1024},
    "WuerstchenDiffNeXt": {"c_in": 4, "c_out": 4, "patch_size": 2, "c_hidden": [320, 640, 1280, 1280]},
    "StableDiffusionSafetyChecker": {"vision_config": {}},
}
"""Class of a network to its fields and their defaults."""


def complete_config(config: Config, network: str) -> Config:
    """Return a config with the defaults and the name of its class; null stays null.

    Args:
        config: A config.json.
        network: Class of the network, as model_index.json names it.
    """
    return {**DEFAULTS.get(network, {}), **config, "_class_name": network}
