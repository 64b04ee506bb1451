"""Writes tiny random checkpoints of latent diffusion, one for each of its pipeline classes."""

from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from bert_tokenizer import write_wordpiece
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from transformers import BertTokenizer

__all__ = ["LDM_CHECKPOINTS", "make_text_to_image", "make_vq_checkpoint", "make_vq_model"]


def _scheduler(start: float = 0.0015, end: float = 0.0195) -> Any:
    return diffusers.DDIMScheduler(beta_start=start, beta_end=end, beta_schedule="scaled_linear", clip_sample=False)


def make_vq_model(norm: str) -> Any:
    """Make a VQModel of factor 2 with 40 codes as far apart as latents.

    Args:
        norm: "group", or "spatial" for MoVQ, whose codes are as wide as latents.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        made = diffusers.VQModel(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            latent_channels=4,
            vq_embed_dim=4 if norm == "spatial" else 3,
            num_vq_embeddings=40,
            norm_num_groups=8,
            norm_type=norm,
        )
        made.quantize.embedding.weight.data.normal_()
    return made.eval().requires_grad_(False)


def make_vq_checkpoint(folder: Path, name: str, **options: Any) -> None:
    """Write a UNet of two levels, and a VQModel of factor 4 with codes as far apart as latents.

    Args:
        folder: Where.
        name: Class of the pipeline.
        options: Of the UNet.
    """
    vqvae = diffusers.VQModel(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        num_vq_embeddings=40,
        norm_num_groups=4,
        scaling_factor=0.7,
    )
    vqvae.quantize.embedding.weight.data.normal_()
    unet = diffusers.UNet2DModel(
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        out_channels=3,
        **options,
    )
    getattr(diffusers, name)(vqvae=vqvae, unet=unet, scheduler=_scheduler()).save_pretrained(folder)


def make_text_to_image(folder: Path, levels: int = 4) -> None:
    """Write a UNet with one level of attention, and a tokenizer that is a vocab.txt alone, as the published one.

    Args:
        folder: Where.
        levels: Of the VAE; 4 have the factor of 8 that the pipeline expects.
    """
    sizes = {"encoder_layers": 1, "encoder_ffn_dim": 16, "encoder_attention_heads": 2, "head_dim": 8, "d_model": 16}
    bert = LDMBertModel(LDMBertConfig(vocab_size=write_wordpiece(folder / "tokenizer"), **sizes))
    unet = diffusers.UNet2DConditionModel(
        sample_size=(4, 6),
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=4,
    )
    tokenizer = BertTokenizer.from_pretrained(folder / "tokenizer")
    pipeline = diffusers.LDMTextToImagePipeline(vae, bert, tokenizer, unet, _scheduler(0.00085, 0.012))
    pipeline.save_pretrained(folder)
    (folder / "tokenizer/tokenizer.json").unlink()
    write_wordpiece(folder / "tokenizer")


LDM_CHECKPOINTS = {
    "LDMPipeline": partial(make_vq_checkpoint, name="LDMPipeline", sample_size=6),
    "LDMSuperResolutionPipeline": partial(
        make_vq_checkpoint, name="LDMSuperResolutionPipeline", sample_size=32, in_channels=6
    ),
    "LDMTextToImagePipeline": make_text_to_image,
}
"""Class of a pipeline to the function that writes its checkpoint into a folder."""
