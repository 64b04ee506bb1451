"""Tiny random checkpoint of an x4 upscaler."""

from pathlib import Path

import diffusers
from tiny_networks import text_encoder
from transformers import CLIPTokenizer

__all__ = ["make_upscaler"]


def make_upscaler(folder: Path) -> None:
    """Write `StableDiffusionUpscalePipeline`."""
    from tiny_checkpoints import EMOJI

    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=7,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        num_class_embeds=1000,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
    )
    pipeline = diffusers.StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=text_encoder(),
        tokenizer=CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        unet=unet,
        low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction"),
        max_noise_level=350,
    )
    pipeline.save_pretrained(folder)
