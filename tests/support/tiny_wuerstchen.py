"""Tiny random checkpoints of both stages of Würstchen."""

import json

import diffusers
import transformers
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt, WuerstchenPrior
from same_weights import same_weights
from tiny_checkpoints import EMOJI
from tiny_networks import text_encoder

__all__ = ["CHANNELS", "make_wuerstchen_decoder", "make_wuerstchen_prior", "open_wuerstchen"]

CHANNELS = 4
"""Of the prior's latents."""

_WIDTH = 32

_CLASSES = {
    "prior": WuerstchenPrior, "decoder": WuerstchenDiffNeXt, "vqgan": PaellaVQModel,
    "text_encoder": transformers.CLIPTextModel, "tokenizer": transformers.CLIPTokenizer,
    "scheduler": diffusers.DDPMWuerstchenScheduler,
}  # fmt: skip


def make_wuerstchen_prior(folder):
    prior = _with_noise(WuerstchenPrior(c_in=CHANNELS, c=16, c_cond=_WIDTH, c_r=8, depth=1, nhead=2))
    prior.out[1].bias.data[CHANNELS:] -= 1  # its deviations are divided by, and those of random weights may be 0
    _save(diffusers.WuerstchenPriorPipeline(prior=prior, **_texts()), folder, ("prior",))


def make_wuerstchen_decoder(folder):
    """As published the first level has no attention and does not read what the prior made."""
    decoder = WuerstchenDiffNeXt(
        c_r=8, c_cond=16, c_hidden=[8, 16], nhead=[-1, 2], blocks=[1, 2], level_config=["CT", "CTA"],
        inject_effnet=[False, True], effnet_embd=CHANNELS, clip_embd=_WIDTH,
    )  # fmt: skip
    vqgan = PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=16)
    pipeline = diffusers.WuerstchenDecoderPipeline(decoder=_with_noise(decoder), vqgan=_with_noise(vqgan), **_texts())
    _save(pipeline, folder, ("decoder", "vqgan"))


def open_wuerstchen(folder):
    """Open diffusers' pipeline. Version 0.42 does not find the classes of its networks itself."""
    index = json.loads((folder / "model_index.json").read_text())
    parts = {name: _CLASSES[name].from_pretrained(folder / name) for name in index if name in _CLASSES}
    numbers = {name: value for name, value in index.items() if isinstance(value, float)}
    pipeline = getattr(diffusers, index["_class_name"])(**parts, **numbers)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _texts():
    """Both stages have equal encoders, so that tests trace one."""
    return {
        "tokenizer": transformers.CLIPTokenizer.from_pretrained(EMOJI / "tokenizer"),
        "text_encoder": same_weights(text_encoder)(num_hidden_layers=1),
        "scheduler": diffusers.DDPMWuerstchenScheduler(),
    }


def _save(pipeline, folder, networks):
    """Save, with the library of its networks as published checkpoints name it."""
    pipeline.save_pretrained(folder)
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, **{name: ["wuerstchen", index[name][1]] for name in networks}}))


def _with_noise(network):
    """Fill the weights that start at zero, so that their layers act."""
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.1)
    return network
