"""Tiny random checkpoints of Z-Image, with 2 pixels to a latent and 4 to a token."""

import shutil

import diffusers
import torch
import transformers
from language_models import qwen3, write_qwen_tokenizer
from tiny_flux import LATENTS, make_vae

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer

__all__ = ["NAMES", "WIDTH", "make_z_image", "make_z_image_controlnet", "make_z_image_omni"]

WIDTH = 32
"""Of the text encoder's hidden states."""

_FEATURES = 24
"""Width of the image encoder's states."""

NAMES = tuple(f"ZImage{form}Pipeline" for form in ("", "Img2Img", "Inpaint", "ControlNet", "ControlNetInpaint"))


def make_z_image(folder, name="ZImagePipeline", scheduler=None, **options):
    """Write the checkpoint of a pipeline class.

    Args:
        folder: Where.
        name: Class of the pipeline.
        scheduler: Options of its scheduler; by default those of Z-Image Turbo.
        options: Of its transformer.
    """
    write_qwen_tokenizer(folder / "source")
    transformer = diffusers.ZImageTransformer2DModel(
        **{
            "in_channels": LATENTS, "dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
            "cap_feat_dim": WIDTH, "axes_dims": [4, 6, 6], "axes_lens": [640, 64, 64], **options,
        }
    )  # fmt: skip
    for pad in (transformer.x_pad_token, transformer.cap_pad_token, transformer.siglip_pad_token):
        if pad is not None:
            pad.data = torch.randn(pad.shape)
    getattr(diffusers, name)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} if scheduler is None else scheduler)),
        vae=make_vae(),
        text_encoder=qwen3(),
        tokenizer=open_tokenizer(folder / "source", "Qwen2Tokenizer"),
        transformer=transformer,
        **({"controlnet": _controlnet()} if "ControlNet" in name else {}),
        **(_siglip() if "Omni" in name else {}),
    ).save_pretrained(folder)
    shutil.rmtree(folder / "source")


def make_z_image_omni(folder, **options):
    """Write the checkpoint of the class that sees other images; `options` as `make_z_image`."""
    make_z_image(folder, "ZImageOmniPipeline", **{"siglip_feat_dim": _FEATURES, **options})


def _siglip():
    """Make an image encoder of patches of 8 pixels, at most 40 to an image, whose positions are a square of 5."""
    config = transformers.Siglip2VisionConfig(
        hidden_size=_FEATURES, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_patches=25,
        patch_size=8, vision_use_head=False,
    )  # fmt: skip
    processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=40)
    return {"siglip": transformers.Siglip2VisionModel(config).eval(), "siglip_processor": processor}


def make_z_image_controlnet(folder, **options):
    """Write a ControlNet for the transformers above, of random weights; `options` as `_controlnet`."""
    _controlnet(**options).save_pretrained(folder)


def _controlnet(*, masked=True, refiner=None, layers=(0,), dim=32):
    """Make a ControlNet.

    Args:
        masked: True for one that takes a mask and the kept part of an image.
        refiner: `add_control_noise_refiner`.
        layers: `control_layers_places`.
        dim: As of the transformer.
    """
    made = diffusers.ZImageControlNetModel(
        control_layers_places=list(layers), control_refiner_layers_places=None if refiner is None else [0],
        control_in_dim=2 * LATENTS + 1 if masked else LATENTS, add_control_noise_refiner=refiner, dim=dim, n_heads=2,
        n_kv_heads=2, n_refiner_layers=1,
    )  # fmt: skip
    for parameter in made.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn(parameter.shape)
    return made
