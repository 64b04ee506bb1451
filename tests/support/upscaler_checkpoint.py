"""Tiny random checkpoints of upscalers."""

from pathlib import Path

import diffusers
from tiny_networks import text_encoder
from transformers import CLIPTokenizer

__all__ = ["make_latent_upscaler", "make_upscaler"]


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


def make_latent_upscaler(folder: Path) -> None:
    """Write `StableDiffusionLatentUpscalePipeline`."""
    from tiny_checkpoints import EMOJI

    unet = diffusers.UNet2DConditionModel(
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=(32, 32, 64, 64),  # its blocks fit together with four levels alone
        time_cond_proj_dim=160,
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=32,
        down_block_types=("KDownBlock2D", *["KCrossAttnDownBlock2D"] * 3),
        in_channels=8,
        mid_block_type=None,
        only_cross_attention=False,
        out_channels=5,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        up_block_types=(*["KCrossAttnUpBlock2D"] * 3, "KUpBlock2D"),
        layers_per_block=1,
        sample_size=16,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    encoder = text_encoder()
    assert encoder.config.hidden_size == 32
    diffusers.StableDiffusionLatentUpscalePipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(prediction_type="sample"),
    ).save_pretrained(folder)
