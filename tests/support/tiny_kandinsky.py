"""Tiny random checkpoints of Kandinsky 2.1 and 2.2."""

import shutil

import diffusers
import torch
import transformers
from diffusers.pipelines.kandinsky import MultilingualCLIP
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig
from same_weights import same_weights
from t5_tokenizer import write_xlm_roberta
from tiny_checkpoints import EMOJI
from tiny_networks import text_encoder_projected

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = ["DDIM", "WIDTH", "make_decoder", "make_movq", "make_prior", "make_text_decoder"]

WIDTH = 32
DDIM = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def make_prior(folder, name="KandinskyV22PriorPipeline"):
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
    getattr(diffusers, name)(
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
    getattr(diffusers, name)(unet=unet, movq=make_movq(levels), scheduler=scheduler).save_pretrained(folder)


def make_text_decoder(folder, name, scheduler):
    write_xlm_roberta(folder.with_suffix(".tokenizer"))
    tokenizer = open_tokenizer(folder.with_suffix(".tokenizer"), "XLMRobertaTokenizerFast")
    shutil.rmtree(folder.with_suffix(".tokenizer"))
    encoder = MultilingualCLIP(
        MCLIPConfig(
            vocab_size=402, hidden_size=20, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37,
            transformerDimSize=20, imageDimSize=WIDTH, max_position_embeddings=80,
        )
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        in_channels=9 if "Inpaint" in name else 4,
        out_channels=8,
        addition_embed_type="text_image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(8, 16),
        layers_per_block=1,
        encoder_hid_dim=20,
        encoder_hid_dim_type="text_image_proj",
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        sample_size=8,
    )
    getattr(diffusers, name)(
        text_encoder=encoder, tokenizer=tokenizer, unet=unet, movq=make_movq(2), scheduler=scheduler
    ).save_pretrained(folder)


@same_weights
def make_movq(levels):
    """Make the decoder of all checkpoints, with the same weights, so that tests trace one."""
    return diffusers.VQModel(
        block_out_channels=(32,) * levels,  # of spatial norms, which have 32 groups
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=12,
        norm_num_groups=4,
        norm_type="spatial",
    )
