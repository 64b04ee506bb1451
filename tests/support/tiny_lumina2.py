"""Tiny random checkpoints of Lumina-Image 2.0, with 8 pixels to a latent, as diffusers' pipeline has it."""

import shutil

import diffusers
from language_models import gemma2, write_gemma_tokenizer
from same_weights import same_weights
from transformers import GemmaTokenizer

__all__ = ["WIDTH", "make_deep_vae", "make_lumina2"]

WIDTH = 32
"""Of the text encoder's hidden states."""

_LEVELS = 4


@same_weights
def make_deep_vae(**options):
    """Return a VAE with 8 pixels to a latent."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * _LEVELS,
        down_block_types=("DownEncoderBlock2D",) * _LEVELS,
        up_block_types=("UpDecoderBlock2D",) * _LEVELS,
        layers_per_block=1,
        norm_num_groups=4,
        **options,
    )


def make_lumina2(folder):
    """Write a checkpoint."""
    source = folder / "source"
    write_gemma_tokenizer(source)
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=32, num_layers=1, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(300, 16, 24), cap_feat_dim=WIDTH,
    )  # fmt: skip
    diffusers.Lumina2Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=make_deep_vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=gemma2(),
        tokenizer=GemmaTokenizer.from_pretrained(source),
    ).save_pretrained(folder)
    shutil.rmtree(source)
