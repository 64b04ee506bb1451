"""Tiny random checkpoints of AuraFlow, with 2 pixels to a latent and 4 to a patch."""

import shutil

import diffusers
import transformers
from t5_tokenizer import write_sentencepiece
from tiny_flux import make_vae

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = ["WIDTH", "make_auraflow"]

WIDTH = 32
"""Of the text encoder's hidden states."""


def make_auraflow(folder):
    """Write a checkpoint whose table of positions has 13 x 13 patches."""
    tokenizer = folder / "source"
    write_sentencepiece(tokenizer)
    text = {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 512}
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, caption_projection_dim=32, pos_embed_max_size=13**2,
    )  # fmt: skip
    diffusers.AuraFlowPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=make_vae(scaling_factor=0.13025, shift_factor=None),
        text_encoder=transformers.UMT5EncoderModel(transformers.UMT5Config(feed_forward_proj="gated-gelu", **text)),
        tokenizer=open_tokenizer(tokenizer, "T5TokenizerFast"),
        transformer=transformer,
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)
