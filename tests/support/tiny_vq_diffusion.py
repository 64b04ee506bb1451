"""A tiny random checkpoint of VQ-Diffusion."""

import diffusers
import transformers
from diffusers.pipelines.deprecated.vq_diffusion import LearnedClassifierFreeSamplingEmbeddings
from tiny_checkpoints import EMOJI
from tiny_networks import text_encoder

__all__ = ["CODES", "STEPS", "make_vq_diffusion", "open_vq_diffusion"]

CODES, STEPS = 12, 6
"""Codes without the mask, and timesteps."""


def make_vq_diffusion(folder, *, learnable=True, classes=CODES + 1):
    transformer = diffusers.Transformer2DModel(
        attention_bias=True, cross_attention_dim=32, attention_head_dim=8, num_attention_heads=2, num_layers=1,
        num_vector_embeds=CODES + 1, num_embeds_ada_norm=STEPS, sample_size=4, activation_fn="geglu-approximate",
        norm_type="ada_norm",
    )  # fmt: skip
    for parameter in transformer.parameters():
        parameter.data *= 3  # so that codes differ in their probabilities
    vqvae = diffusers.VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        vq_embed_dim=3,
        num_vq_embeddings=CODES,
        norm_num_groups=4,
    )
    vqvae.quantize.embedding.weight.data.normal_()
    embeddings = LearnedClassifierFreeSamplingEmbeddings(learnable, *((32, 77) if learnable else ()))
    if learnable:
        embeddings.embeddings.data.normal_()
    diffusers.VQDiffusionPipeline(
        vqvae=vqvae,
        transformer=transformer,
        text_encoder=text_encoder(num_hidden_layers=1),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        learned_classifier_free_sampling_embeddings=embeddings,
        scheduler=diffusers.VQDiffusionScheduler(num_vec_classes=classes, num_train_timesteps=STEPS),
    ).save_pretrained(folder)


def open_vq_diffusion(folder):
    """Open diffusers' pipeline from its parts: diffusers 0.42 cannot read what it wrote into model_index.json."""
    parts = {
        "vqvae": diffusers.VQModel,
        "transformer": diffusers.Transformer2DModel,
        "text_encoder": transformers.CLIPTextModel,
        "tokenizer": transformers.CLIPTokenizer,
        "learned_classifier_free_sampling_embeddings": LearnedClassifierFreeSamplingEmbeddings,
        "scheduler": diffusers.VQDiffusionScheduler,
    }
    pipeline = diffusers.VQDiffusionPipeline(
        **{name: part.from_pretrained(folder / name) for name, part in parts.items()}
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
