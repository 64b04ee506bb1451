"""Tiny random checkpoints of every family, in tables of functions that write them."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
from if_checkpoints import IF_CHECKPOINTS, IF_IMAGE_CHECKPOINTS
from ldm_checkpoints import LDM_CHECKPOINTS
from pixel_checkpoints import CHECKPOINTS
from tiny_auraflow import make_auraflow
from tiny_cascade import make_cascade_decoder, make_cascade_prior
from tiny_checkpoints import VARIANTS, write_tiny_checkpoint
from tiny_chroma import NAMES as CHROMA
from tiny_chroma import make_chroma
from tiny_flux import DEV, LATENTS, make_flux
from tiny_flux_2 import KLEIN_CLASSES, make_klein
from tiny_hunyuan_dit import make_hunyuan_dit
from tiny_kandinsky import DDIM, make_decoder, make_prior, make_text_decoder
from tiny_kandinsky_3 import make_kandinsky_3
from tiny_lumina2 import make_lumina2
from tiny_pixart import make_pixart
from tiny_qwen_image import make_qwen_image, make_qwen_image_21, make_qwen_image_edit, make_qwen_image_layered
from tiny_sana import CLASSES as SANA_CLASSES
from tiny_sana import make_sana
from tiny_shap_e import NAMES, make_shap_e
from tiny_vq_diffusion import make_vq_diffusion
from tiny_wuerstchen import make_wuerstchen_decoder, make_wuerstchen_prior
from tiny_z_image import NAMES as Z_IMAGE
from tiny_z_image import make_z_image, make_z_image_omni
from unclip_checkpoints import UNCLIP_CHECKPOINTS
from upscaler_checkpoint import make_latent_upscaler, make_upscaler

__all__ = ["SYSTEM_TABLES"]

_Makers = Mapping[str, Callable[[Path], Any]]


def _by_name(make: Callable[..., Any], *names: str) -> _Makers:
    return {name: partial(make, name=name) for name in names}


def _decoders(make: Callable[..., Any], *names: str) -> _Makers:
    return {name: partial(make, name=name, scheduler=diffusers.DDIMScheduler(**DDIM)) for name in names}


SYSTEM_TABLES: Mapping[str, _Makers] = {
    "stable-diffusion": _by_name(write_tiny_checkpoint, *VARIANTS),
    "pixels": CHECKPOINTS,
    "latent-diffusion": LDM_CHECKPOINTS,
    "unclip": UNCLIP_CHECKPOINTS,
    "deepfloyd-if": {**IF_CHECKPOINTS, **IF_IMAGE_CHECKPOINTS},
    "upscalers": {
        "StableDiffusionUpscalePipeline": make_upscaler,
        "StableDiffusionLatentUpscalePipeline": make_latent_upscaler,
    },
    "kandinsky": {
        **_by_name(
            make_prior, "KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline", "KandinskyPriorPipeline"
        ),
        **_decoders(
            make_decoder,
            "KandinskyV22Pipeline",
            "KandinskyV22Img2ImgPipeline",
            "KandinskyV22InpaintPipeline",
            "KandinskyV22ControlnetPipeline",
            "KandinskyV22ControlnetImg2ImgPipeline",
        ),
        **_decoders(make_text_decoder, "KandinskyPipeline", "KandinskyImg2ImgPipeline", "KandinskyInpaintPipeline"),
        **_by_name(make_kandinsky_3, "Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline"),
    },
    "cascades": {
        "StableCascadePriorPipeline": make_cascade_prior,
        "StableCascadeDecoderPipeline": make_cascade_decoder,
        "WuerstchenPriorPipeline": make_wuerstchen_prior,
        "WuerstchenDecoderPipeline": make_wuerstchen_decoder,
    },
    "transformers": {
        "VQDiffusionPipeline": make_vq_diffusion,
        **_by_name(make_shap_e, *NAMES),
        "AuraFlowPipeline": make_auraflow,
        **_by_name(make_klein, *KLEIN_CLASSES),
        "Lumina2Pipeline": make_lumina2,
        **_by_name(make_hunyuan_dit, *(f"HunyuanDiT{form}Pipeline" for form in ("", "ControlNet", "PAG"))),
        **_by_name(make_chroma, *CHROMA),
        **_by_name(make_z_image, *Z_IMAGE),
        "ZImageOmniPipeline": make_z_image_omni,
        **_by_name(make_pixart, "PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline"),
        **_by_name(
            partial(make_flux, **DEV),
            *(f"Flux{form}Pipeline" for form in ("", "Img2Img", "Inpaint", "Kontext", "KontextInpaint")),
            *(f"FluxControlNet{form}Pipeline" for form in ("", "Img2Img", "Inpaint")),
        ),
        **_by_name(
            make_qwen_image, "QwenImagePipeline", "QwenImageControlNetPipeline", "QwenImageControlNetInpaintPipeline"
        ),
        **_by_name(make_qwen_image_edit, *(f"QwenImageEdit{form}Pipeline" for form in ("", "Inpaint", "Plus"))),
        "QwenImageLayeredPipeline": make_qwen_image_layered,
        "QwenImage21Pipeline": make_qwen_image_21,
        **_by_name(make_sana, *SANA_CLASSES),
        **_by_name(
            partial(make_flux, in_channels=8 * LATENTS, out_channels=4 * LATENTS, **DEV),
            *(f"FluxControl{form}Pipeline" for form in ("", "Img2Img", "Inpaint")),
        ),
    },
}
"""Table to its checkpoints: name, or class of the pipeline, to the function that writes it into a folder."""
