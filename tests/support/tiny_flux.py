"""Tiny random checkpoints of FLUX.1, with 2 pixels to a latent and 4 to a token."""

import shutil

import diffusers
import torch
import transformers
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from same_weights import same_weights
from t5_tokenizer import write_sentencepiece
from tiny_checkpoints import EMOJI
from tiny_networks import text_encoder

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = [
    "DEEP",
    "DEV",
    "LATENTS",
    "SCHNELL",
    "SHIFT",
    "UNION",
    "WIDTH",
    "make_flux",
    "make_flux_controlnet",
    "make_redux",
    "make_t5",
    "make_vae",
]

WIDTH = 32
"""Of T5's hidden states."""

LATENTS = 4
"""Channels."""
SHIFT = {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 64}

DEV, SCHNELL = {"guidance_embeds": True}, {"guidance_embeds": False}
"""Options of the transformers, which are published with 19 and 38 layers."""

DEEP = {**DEV, "num_layers": 3, "num_single_layers": 2}
"""Of a transformer with more blocks than a ControlNet."""

UNION = {**DEV, "num_mode": 3}
"""Of a ControlNet for three kinds of images."""


@same_weights
def make_t5():
    """Return a text encoder."""
    text = {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 512}
    return transformers.T5EncoderModel(transformers.T5Config(feed_forward_proj="gated-gelu", **text))


@same_weights
def make_vae(**options):
    """Return a VAE with 2 pixels to a latent, by default."""
    return diffusers.AutoencoderKL(
        **{
            "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1, "norm_num_groups": 4,
            "latent_channels": LATENTS, "use_quant_conv": False, "use_post_quant_conv": False,
            "scaling_factor": 0.3611, "shift_factor": 0.1159, **options,
        }
    )  # fmt: skip


def make_flux(folder, name="FluxPipeline", scheduler=None, vae=None, **options):
    """Write the checkpoint of a pipeline class; one with a ControlNet has a union.

    Args:
        folder: Where.
        name: Class of the pipeline.
        scheduler: Options of its scheduler; by default the schedule depends on the size.
        vae: Options of its VAE.
        options: Of its transformer.
    """
    tokenizer = folder / "source"
    write_sentencepiece(tokenizer)
    clip = same_weights(text_encoder)(num_hidden_layers=1)
    t5, vae = make_t5(), make_vae(**(vae or {}))
    transformer = diffusers.FluxTransformer2DModel(
        **{
            "in_channels": 4 * LATENTS, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": WIDTH, "pooled_projection_dim": clip.config.hidden_size,
            "axes_dims_rope": (4, 6, 6), **options,
        }
    )  # fmt: skip
    getattr(diffusers, name)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**(SHIFT if scheduler is None else scheduler)),
        vae=vae,
        text_encoder=clip,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        text_encoder_2=t5,
        tokenizer_2=open_tokenizer(tokenizer, "T5TokenizerFast"),
        transformer=transformer,
        **({"controlnet": _controlnet(0, **UNION)} if "ControlNet" in name else {}),
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)


def make_flux_controlnet(folder, seed=0, **options):
    """Write a ControlNet for the transformers above; all its weights are random.

    Args:
        folder: Where.
        seed: Of the weights.
        options: Of the network.
    """
    _controlnet(seed, **options).save_pretrained(folder)


def _controlnet(seed, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = diffusers.FluxControlNetModel(
            **{
                "in_channels": 4 * LATENTS, "num_layers": 2, "num_single_layers": 1, "attention_head_dim": 16,
                "num_attention_heads": 2, "joint_attention_dim": WIDTH, "pooled_projection_dim": 32,
                "axes_dims_rope": (4, 6, 6), **options,
            }
        )  # fmt: skip
        for parameter in made.parameters():
            if not parameter.any():
                parameter.data = 0.1 * torch.randn(parameter.shape)
    return made


def make_redux(folder, texts=True):
    """Write a checkpoint of `FluxPriorReduxPipeline`: SigLIP for images of 28 x 28 pixels, 4 patches.

    Args:
        folder: Where.
        texts: True with text encoders, as for `make_flux`.
    """
    tokenizer = folder / "source"
    write_sentencepiece(tokenizer)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    siglip = transformers.SiglipVisionConfig(**sizes, image_size=28, patch_size=14)
    encoders = {
        "text_encoder": text_encoder(num_hidden_layers=1),
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        "text_encoder_2": make_t5(),
        "tokenizer_2": open_tokenizer(tokenizer, "T5TokenizerFast"),
    }
    diffusers.FluxPriorReduxPipeline(
        image_encoder=transformers.SiglipVisionModel(siglip),
        feature_extractor=transformers.SiglipImageProcessor(size={"height": 28, "width": 28}),
        image_embedder=ReduxImageEncoder(redux_dim=24, txt_in_features=WIDTH),
        **(encoders if texts else {}),
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)
