"""Tiny random checkpoints of Chroma, with 2 pixels to a latent and 4 to a token."""

import shutil

import diffusers
from t5_tokenizer import write_sentencepiece
from tiny_flux import LATENTS, SHIFT, WIDTH, make_t5, make_vae

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = ["NAMES", "make_chroma"]

NAMES = tuple(f"Chroma{form}Pipeline" for form in ("", "Img2Img", "Inpaint"))


def make_chroma(folder, name="ChromaPipeline"):
    """Write the checkpoint of a pipeline class.

    diffusers' `ChromaInpaintPipeline` reads `guidance_embeds` of the config, which its transformer does not have.
    """
    tokenizer = folder / "source"
    write_sentencepiece(tokenizer)
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=4 * LATENTS, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6), approximator_num_channels=16, approximator_hidden_dim=24,
        approximator_layers=2,
    )  # fmt: skip
    transformer.register_to_config(guidance_embeds=False)
    getattr(diffusers, name)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SHIFT),
        vae=make_vae(),
        text_encoder=make_t5(),
        tokenizer=open_tokenizer(tokenizer, "T5TokenizerFast"),
        transformer=transformer,
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)
