"""A tiny random checkpoint of Kandinsky 3, whose images are 64 pixels and more."""

import shutil

import diffusers
import torch
import transformers
from t5_tokenizer import write_sentencepiece
from tiny_kandinsky import make_movq

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = ["WIDTH", "make_kandinsky_3"]

WIDTH = 32
"""Of T5's hidden states."""

_LEVELS = 4
"""Of the MoVQ: 8 pixels to a latent, which diffusers' pipelines are written for."""


def make_kandinsky_3(folder, name="Kandinsky3Pipeline", scheduler=None, **sizes):
    """Write the checkpoint of a pipeline class; `sizes` are those of the UNet."""
    tokenizer = folder / "source"
    write_sentencepiece(tokenizer)
    usual = {"block_out_channels": (16, 32), "layers_per_block": 2}  # two is the least that diffusers can run
    unet = diffusers.Kandinsky3UNet(
        **{**usual, **sizes},
        attention_head_dim=8,
        groups=4,
        time_embedding_dim=32,
        cross_attention_dim=16,
        encoder_hid_dim=WIDTH,
    )
    for parameter in unet.parameters():
        if not parameter.any():  # scales and biases, with which nothing would tell whether they are read
            parameter.data = 0.2 * torch.randn(parameter.shape)
    unet.conv_out.weight.data *= 0.3  # the first step multiplies the last bits of a noise
    text = {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 512}
    getattr(diffusers, name)(
        tokenizer=open_tokenizer(tokenizer, "T5Tokenizer"),
        text_encoder=transformers.T5EncoderModel(transformers.T5Config(feed_forward_proj="gated-gelu", **text)),
        unet=unet,
        movq=make_movq(_LEVELS),
        scheduler=scheduler or diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", steps_offset=1),
    ).save_pretrained(folder)
    shutil.rmtree(tokenizer)
