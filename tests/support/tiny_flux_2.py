"""Tiny random checkpoints of FLUX.2, with 2 pixels to a latent and 4 to a token."""

import json
import shutil

import diffusers
import torch
import transformers
from language_models import mistral3, mistral_tokenizer, qwen3, write_qwen_tokenizer

__all__ = ["KLEIN_CLASSES", "LATENTS", "WIDTH", "make_dev", "make_klein"]

KLEIN_CLASSES = "Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline"

WIDTH = 16
"""Of the text encoder's hidden states, three of which lie side by side."""

LATENTS = 4
"""Channels."""

_SHIFT = {"use_dynamic_shifting": True, "shift": 3.0}


def make_klein(folder, name="Flux2KleinPipeline", *, layers=28, **options):
    """Write the checkpoint of a pipeline class.

    Args:
        folder: Where.
        name: Class of the pipeline.
        layers: Of the text encoder: 28 are the least that diffusers' defaults read without the last norm.
        options: Further arguments of the pipeline class.
    """
    tokenizer = folder / "source"
    write_qwen_tokenizer(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {"text_encoder": _text_encoder(layers), "vae": _vae(), "transformer": _transformer()}
    getattr(diffusers, name)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**_SHIFT),
        tokenizer=transformers.AutoTokenizer.from_pretrained(tokenizer),
        **parts,
        **options,
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)


def make_dev(folder, *, layers=31, guided=True):
    """Write the checkpoint of `Flux2Pipeline`.

    Args:
        folder: Where.
        layers: Of the text encoder: 31 are the least that diffusers' defaults read without the last norm.
        guided: True for a transformer that takes the guidance scale.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = mistral3(hidden_size=WIDTH, intermediate_size=16, head_dim=8, num_hidden_layers=layers)
        parts = {"vae": _vae(), "transformer": _transformer(guidance_embeds=guided)}
    diffusers.Flux2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**_SHIFT),
        text_encoder=text,
        tokenizer=mistral_tokenizer(),
        **parts,
    ).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]  # which needs torchvision to be made
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _text_encoder(layers):
    return qwen3(
        "Qwen3ForCausalLM", hidden_size=WIDTH, intermediate_size=16, head_dim=8, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip


def _vae():
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=LATENTS,
        sample_size=32,
    )
    vae.bn.running_mean.copy_(torch.randn(4 * LATENTS))
    vae.bn.running_var.copy_(0.5 + torch.rand(4 * LATENTS))
    return vae


def _transformer(**options):
    return diffusers.Flux2Transformer2DModel(
        in_channels=4 * LATENTS, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        **{"guidance_embeds": False, **options},
    )  # fmt: skip
