"""Kandinsky3UNet: noisy latents, a timestep and a prompt to predicted noise.

Arkhipkin et al. 2023, https://arxiv.org/abs/2312.03511.
"""

from diffoundry.exporter.component import Component, ComponentKind, Configs, read_integer, read_levels
from diffoundry.exporter.components.latents import latent_dims
from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.models.kandinsky3_unet import LEVELS, SIDE, TOKENS
from diffoundry.runtime.models.roles import DENOISER

__all__ = ["KANDINSKY_3_UNET"]

_CLASS = "Kandinsky3UNet"
_SOURCE = "unet"


def _describe(configs: Configs) -> Component:
    height, width = latent_dims(configs)
    factor = parse_size(height).divisor
    channels = read_integer(configs, _SOURCE, "in_channels", 4)
    text = read_integer(configs, _SOURCE, "encoder_hid_dim", 4096)
    # Skip connections fit only where every level divides by two.
    steps = 2 ** (len(read_levels(configs, _SOURCE, "block_out_channels", LEVELS)) - 1)
    sides = DimSpec(multiple_of=steps * factor)
    tokens = ("batch", "sequence")
    return Component(
        name=_SOURCE,
        role=DENOISER,
        network=_CLASS,
        source=_SOURCE,
        inputs=(
            TensorSpec(name="sample", dtype="float32", shape=("batch", channels, height, width)),
            TensorSpec(name="timestep", dtype="float32", shape=(1,)),
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=(*tokens, text)),
            TensorSpec(name="encoder_attention_mask", dtype="float32", shape=tokens),
        ),
        outputs=(TensorSpec(name="out_sample", dtype="float32", shape=("batch", channels, height, width)),),
        example={"batch": 2, height: 3 * steps, width: 5 * steps, "sequence": 7},
        sizes={"height": sides, "width": sides},
        usual={"height": SIDE * factor, "width": SIDE * factor, "sequence": TOKENS},
        wrapper="diffoundry.exporter.components.kandinsky3_unet_module:Kandinsky3Module",
    )


KANDINSKY_3_UNET = ComponentKind(name=_SOURCE, source=_SOURCE, classes=(f"diffusers:{_CLASS}",), describe=_describe)
