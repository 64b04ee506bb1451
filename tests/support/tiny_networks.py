"""Networks of tiny random checkpoints, with the weights that torch's generator gives.

Attention heads have 16 channels and more, and VAEs, but for the small one, a factor of 8.
"""

from typing import Any

VOCABULARY = {"vocab_size": 4295, "bos_token_id": 4293, "eos_token_id": 4294, "pad_token_id": 4294}


def text_encoder(**options: Any) -> Any:
    """Like the only encoder of Stable Diffusion 1: 2 layers of 32."""
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**{**VOCABULARY, **sizes, **options}))


def text_encoder_2() -> Any:
    """Like the second encoder of Stable Diffusion XL, with a projection: 3 layers of 48, 24 out."""
    import transformers

    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 3}
    config = transformers.CLIPTextConfig(**VOCABULARY, **sizes, projection_dim=24, hidden_act="gelu")
    return transformers.CLIPTextModelWithProjection(config)


def unet(**options: Any) -> Any:
    """Three levels, like Stable Diffusion 1: one number of heads, convolutions as projections."""
    import diffusers

    usual = {
        "sample_size": 8,
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
    }
    return diffusers.UNet2DConditionModel(**{**usual, **options})


def unet_small(**options: Any) -> Any:
    """Two levels."""
    return unet(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **options,
    )


def unet_edited(**options: Any) -> Any:
    """Two levels of attention that prefers some tokens, so that edits show. Random weights attend to all alike."""
    made = unet(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        **options,
    )
    for name, parameter in made.named_parameters():
        if any(part in name for part in ("to_q", "to_k", "attn2.to_v")):
            parameter.data *= 4
    return made


def unet_least() -> Any:
    """One level."""
    return unet(
        block_out_channels=(32,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",)
    )


def unet_xl(*, width: int = 80, numbers: int = 6, **options: Any) -> Any:
    """Two levels, like Stable Diffusion XL: sizes and pooled text as conditions, several transformers a level.

    Args:
        width: Of the text encoders' hidden states together.
        numbers: That say how large the image is.
        options: Over the usual ones.
    """
    usual = {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": width,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + numbers * 8,
    }
    return unet(**{**usual, **options})


def unet_xl_three() -> Any:
    """Three levels: the middle of the UNet takes a feature of a T2I-Adapter, as in Stable Diffusion XL."""
    return unet_xl(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        attention_head_dim=(2, 4, 4),
    )


def vae(**options: Any) -> Any:
    """Factor 8, four channels."""
    import diffusers

    usual = {
        "sample_size": 64,
        "block_out_channels": (16, 16, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
    }
    return diffusers.AutoencoderKL(layers_per_block=1, norm_num_groups=8, **{**usual, **options})


def vae_small() -> Any:
    """Factor 4."""
    return vae(
        sample_size=32,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )


def vae_tiny() -> Any:
    """AutoencoderTiny, factor 8: latents without a distribution."""
    import diffusers

    sizes = {"encoder_block_out_channels": (16,) * 4, "decoder_block_out_channels": (16,) * 4}
    return diffusers.AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1))


def vae_xl() -> Any:
    """With statistics of its latents, as some fine-tunes of Stable Diffusion XL have."""
    return vae(scaling_factor=0.13025, latents_mean=[-1.5, 0.6, 0.1, -0.4], latents_std=[8.0, 6.5, 5.0, 7.0])


def vae_3() -> Any:
    """Like Stable Diffusion 3: 16 channels with a shift, no convolutions around the latents."""
    return vae(
        latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
    )


def text_encoder_projected() -> Any:
    """Like the first encoder of Stable Diffusion 3: `text_encoder` with a projection, 24 out."""
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPTextConfig(**VOCABULARY, **sizes, projection_dim=24)
    return transformers.CLIPTextModelWithProjection(config)


def text_encoder_t5() -> Any:
    """T5's encoder: 2 layers of 96."""
    import transformers

    sizes = {"d_model": 96, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=512, feed_forward_proj="gated-gelu", **sizes))


def transformer_3(**options: Any) -> Any:
    """Like Stable Diffusion 3: patches of 2, positions for latents of up to 24 x 24."""
    import diffusers
    import torch

    usual = {
        "sample_size": 8,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 96,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 48,
        "pos_embed_max_size": 12,
    }
    made = diffusers.SD3Transformer2DModel(**{**usual, **options})
    for parameter in made.parameters():
        if not parameter.any():  # biases, with which nothing would tell whether they are read
            parameter.data = 0.1 * torch.randn(parameter.shape)
    return made


VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "initializer_factor": 8.0,  # so large that images of random networks are told apart
}


def feature_extractor() -> Any:
    """For images of 32 x 32."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def image_encoder() -> Any:
    """As narrow as the UNet's condition."""
    import transformers

    config = transformers.CLIPVisionConfig(**VISION, projection_dim=32)
    return transformers.CLIPVisionModelWithProjection(config)


def safety_checker() -> Any:
    """One concept and one special one are near enough to some images of `sd1`: seeds 0 to 5 have both verdicts."""
    import torch
    import transformers
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker

    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(
        transformers.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24)
    )
    checker.concept_embeds.data = torch.randn(17, 24)
    checker.special_care_embeds.data = torch.randn(3, 24)
    checker.concept_embeds_weights.data = torch.full((17,), 0.7)
    checker.concept_embeds_weights.data[13] = -0.14
    checker.special_care_embeds_weights.data = torch.tensor([0.7, 0.1, 0.7])
    return checker


def depth_processor() -> Any:
    """For images of 32 x 32."""
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    return DPTImageProcessorPil(size={"height": 32, "width": 32})


def depth_estimator(**options: Any) -> Any:
    """DPT with a BiT backbone, like that of Stable Diffusion 2's depth model: depth of 32 x 32 with near and far."""
    import torch
    import transformers

    backbone = {
        "model_type": "bit",
        "global_padding": "same",
        "layer_type": "bottleneck",
        "depths": [1, 1, 1],
        "num_groups": 4,
        "embedding_size": 8,
        "hidden_sizes": [16, 32, 64],
        "out_features": ["stage1", "stage2", "stage3"],
        "embedding_dynamic_padding": True,
    }
    hybrid = {
        "is_hybrid": True,
        "backbone_config": backbone,
        "backbone_featmap_shape": [1, 64, 2, 2],
        "neck_hidden_sizes": [16, 32, 16, 16],
        "reassemble_factors": [1, 1, 1, 0.5],
        "neck_ignore_stages": [0, 1],
        "num_hidden_layers": 2,
        "backbone_out_indices": [0, 0, 0, 1],
    }
    usual = {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "backbone_out_indices": [0, 1, 2, 3],
        "fusion_hidden_size": 8,
    }
    config = transformers.DPTConfig(**{**usual, **(options or hybrid)})
    made = transformers.DPTForDepthEstimation(config)
    for parameter in made.parameters():  # so large that depth differs from place to place, and between images
        parameter.data = parameter * 8 if parameter.ndim > 1 else parameter + 0.1 * torch.randn(parameter.shape)
    made.head.head[-2].bias.data += 1  # few places are so far that their depth is cut to 0
    return made


def depth_estimator_vit() -> Any:
    """DPT with its own ViT."""
    return depth_estimator(neck_hidden_sizes=[8, 8, 16, 16])
