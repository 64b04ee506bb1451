"""Tiny random checkpoints of Shap-E, for prompts and for images."""

import diffusers
import torch
import transformers
from diffusers.pipelines.shap_e import ShapERenderer
from tiny_checkpoints import EMOJI
from tiny_networks import text_encoder_projected

__all__ = ["NAMES", "SIDE", "TOKENS", "WIDTH", "make_shap_e"]

NAMES = ("ShapEPipeline", "ShapEImg2ImgPipeline")

WIDTH, TOKENS, SIDE = 16, 32, 16
"""Numbers of a token, tokens of an object, and pixels of the image encoder."""


def make_shap_e(folder, name=NAMES[0]):
    sees_image = name == NAMES[1]
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, embedding_dim=WIDTH, num_embeddings=TOKENS,
        embedding_proj_dim=32 if sees_image else 24, clip_embed_dim=2 * WIDTH,
        additional_embeddings=0, time_embed_act_fn="gelu",
        norm_in_type="layer", embedding_proj_norm_type="layer" if sees_image else None, encoder_hid_proj_type=None,
        added_emb_type=None,
    )  # fmt: skip
    torch.nn.init.normal_(prior.positional_embedding)
    parts = _image_parts() if sees_image else _text_parts()
    getattr(diffusers, name)(
        prior=prior,
        scheduler=diffusers.HeunDiscreteScheduler(
            beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", use_karras_sigmas=True,
            clip_sample=True, clip_sample_range=1.0,
        ),
        shap_e_renderer=ShapERenderer(
            param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=WIDTH, d_hidden=8, n_output=12
        ),
        **parts,
    ).save_pretrained(folder)  # fmt: skip


def _text_parts():
    return {
        "text_encoder": text_encoder_projected(),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
    }


def _image_parts():
    config = transformers.CLIPVisionConfig(
        hidden_size=32, image_size=SIDE, intermediate_size=37, num_attention_heads=4, num_hidden_layers=1, patch_size=8
    )
    return {
        "image_encoder": transformers.CLIPVisionModel(config),
        "image_processor": transformers.CLIPImageProcessor(
            crop_size={"height": SIDE, "width": SIDE}, size={"shortest_edge": SIDE}
        ),
    }
