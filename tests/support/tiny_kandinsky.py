"""Tiny random checkpoints of Kandinsky 2.2."""

import diffusers
import torch
import transformers
from tiny_checkpoints import EMOJI
from tiny_networks import text_encoder_projected

__all__ = ["DDIM", "WIDTH", "make_decoder", "make_prior"]

WIDTH = 32
DDIM = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def make_prior(folder):
    config = text_encoder_projected().config
    config.projection_dim = WIDTH
    encoder = transformers.CLIPTextModelWithProjection(config)
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, image_size=32, projection_dim=WIDTH, intermediate_size=37, num_attention_heads=4,
        num_hidden_layers=2, patch_size=8,
    )  # fmt: skip
    prior = diffusers.PriorTransformer(num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1)
    prior.clip_std = torch.nn.Parameter(torch.rand(1, WIDTH) + 0.5)
    prior.clip_mean = torch.nn.Parameter(torch.randn(1, WIDTH))
    diffusers.KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=transformers.CLIPVisionModelWithProjection(vision),
        text_encoder=encoder,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000, clip_sample_range=5.0
        ),
        image_processor=transformers.CLIPImageProcessor(
            crop_size={"height": 32, "width": 32}, size={"shortest_edge": 32}
        ),
    ).save_pretrained(folder)


def make_decoder(folder, name, scheduler):
    inpaints, hinted = "Inpaint" in name, "Controlnet" in name
    unet = diffusers.UNet2DConditionModel(
        in_channels=9 if inpaints else 8 if hinted else 4,
        out_channels=8,
        addition_embed_type="image_hint" if hinted else "image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(8, 16),
        layers_per_block=1,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        sample_size=8,
    )
    levels = 4 if hinted else 2  # a hint is eight times as large as the latents
    movq = diffusers.VQModel(
        block_out_channels=(32,) * levels,  # of spatial norms, which have 32 groups
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=12,
        norm_num_groups=4,
        norm_type="spatial",
    )
    getattr(diffusers, name)(unet=unet, movq=movq, scheduler=scheduler).save_pretrained(folder)
