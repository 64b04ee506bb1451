"""Tiny random checkpoints of PixArt-Alpha and PixArt-Sigma, with 8 pixels to a latent, as diffusers' tables have it."""

import shutil

import diffusers
import transformers
from same_weights import same_weights
from t5_tokenizer import write_sentencepiece

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = ["WIDTH", "make_pixart"]

WIDTH = 32
"""Of T5's hidden states."""

_LEVELS = 4

_NETWORKS = {
    "PixArtAlphaPipeline": {"sample_size": 128, "out_channels": 8},
    "PixArtSigmaPAGPipeline": {
        "sample_size": 32,
        "out_channels": 4,
        "use_additional_conditions": False,
        "num_layers": 2,
    },
    "PixArtSigmaPipeline": {"sample_size": 32, "out_channels": 4, "use_additional_conditions": False},
}
"""The first takes the size of the image and predicts a variance, as both do when they are published."""


def make_pixart(folder, name="PixArtAlphaPipeline", **options):
    """Write the checkpoint of a pipeline class; options are those of its transformer."""
    tokenizer = folder / "source"
    write_sentencepiece(tokenizer)
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        **{"num_layers": 1, **_NETWORKS[name], **options},
    )
    transformer.proj_out.weight.data *= 0.5
    text_encoder, vae = _shared_parts()
    getattr(diffusers, name)(
        tokenizer=open_tokenizer(tokenizer, "T5Tokenizer"),
        text_encoder=text_encoder,
        transformer=transformer,
        vae=vae,
        scheduler=diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)


@same_weights
def _shared_parts():
    """Make the text encoder and the VAE of both checkpoints, with the same weights, so that tests trace one."""
    text = {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 512}
    encoder = transformers.T5EncoderModel(transformers.T5Config(feed_forward_proj="gated-gelu", **text))
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,) * _LEVELS,
        down_block_types=("DownEncoderBlock2D",) * _LEVELS,
        up_block_types=("UpDecoderBlock2D",) * _LEVELS,
        layers_per_block=1,
        norm_num_groups=4,
    )
    return encoder, vae
