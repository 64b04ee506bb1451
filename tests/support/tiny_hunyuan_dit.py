"""Tiny random checkpoints of Hunyuan-DiT, with 8 pixels to a latent, as diffusers' pipeline has it."""

import shutil

import diffusers
import torch
import transformers
from t5_tokenizer import write_sentencepiece
from tiny_flux import make_t5
from tiny_lumina2 import make_deep_vae

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = ["WIDTH", "make_hunyuan_dit", "make_hunyuan_dit_controlnet"]

WIDTH = 32
"""Of both text encoders' hidden states."""

_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "cat", "dog", "blue", "very", "##s")
"""Pieces of the first text encoder's tokenizer; it has no others."""


_SIZES = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "patch_size": 2, "sample_size": 8,
    "hidden_size": 32, "mlp_ratio": 2.0, "cross_attention_dim": WIDTH, "cross_attention_dim_t5": WIDTH,
    "pooled_projection_dim": 16,
}  # fmt: skip


def make_hunyuan_dit(folder, name="HunyuanDiTPipeline", layers=4, **options):
    """Write the checkpoint of a pipeline class; options are those of the transformer."""
    sources = folder / "source", folder / "words"
    write_sentencepiece(sources[0])
    sources[1].mkdir()
    (sources[1] / "vocab.txt").write_text("\n".join(_WORDS) + "\n")
    bert = transformers.BertConfig(
        vocab_size=64, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    transformer = diffusers.HunyuanDiT2DModel(num_layers=layers, **_SIZES, **options)
    getattr(diffusers, name)(
        vae=make_deep_vae(scaling_factor=0.13025),
        text_encoder=transformers.BertModel(bert),
        tokenizer=transformers.BertTokenizer(str(sources[1] / "vocab.txt"), model_max_length=77),
        transformer=transformer,
        scheduler=diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.018),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=make_t5(),
        tokenizer_2=open_tokenizer(sources[0], "T5Tokenizer"),
        **({"controlnet": _controlnet(layers)} if "ControlNet" in name else {}),
    ).save_pretrained(folder)
    for source in sources:
        shutil.rmtree(source)


def make_hunyuan_dit_controlnet(folder, layers):
    """Write a ControlNet for a transformer of so many layers, of random weights."""
    _controlnet(layers).save_pretrained(folder)


def _controlnet(layers):
    made = diffusers.HunyuanDiT2DControlNetModel(transformer_num_layers=layers, **_SIZES)
    for parameter in made.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn(parameter.shape)
    return made
