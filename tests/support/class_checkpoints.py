"""Tiny random checkpoints of every pipeline class that an export takes, by the name of the class."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
from if_checkpoints import IF_CHECKPOINTS, IF_IMAGE_CHECKPOINTS
from ldm_checkpoints import LDM_CHECKPOINTS
from pixel_checkpoints import CHECKPOINTS
from tiny_auraflow import make_auraflow
from tiny_cascade import make_cascade_decoder, make_cascade_prior
from tiny_checkpoints import write_tiny_checkpoint
from tiny_chroma import NAMES as CHROMA
from tiny_chroma import make_chroma
from tiny_flux import DEV, LATENTS, make_flux, make_redux
from tiny_flux_2 import KLEIN_CLASSES, make_dev, make_klein
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

__all__ = ["CLASS_CHECKPOINTS", "ClassCheckpoint"]


@dataclass(frozen=True, kw_only=True)
class ClassCheckpoint:
    """A checkpoint of a class, and the networks that join it in an export.

    Attributes:
        make: Writes it into a folder.
        base: Variant of `VARIANTS` whose build joined networks have.
        controlnet: Name of the ControlNet that joins, or None.
        t2i_adapter: Kind of the T2I-Adapter that joins, or None.
        size: Height and width to measure; None for the checkpoint's own.
    """

    make: Callable[[Path], Any]
    base: str = ""
    controlnet: str | None = None
    t2i_adapter: str | None = None
    size: tuple[int, int] | None = None


def _write_variant(folder: Path, variant: str, name: str) -> None:
    """Write a variant of `VARIANTS` under the name of a class with the same networks."""
    write_tiny_checkpoint(folder, variant)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": name}))


def _variant(name: str, variant: str, **joined: Any) -> ClassCheckpoint:
    return ClassCheckpoint(make=partial(_write_variant, variant=variant, name=name), base=variant, **joined)


def _kandinsky(make: Callable[..., None], name: str) -> Callable[[Path], None]:
    return lambda folder: make(folder, name, diffusers.DDIMScheduler(**DDIM))


_FORMS = ("", "Img2Img", "Inpaint")

_VARIANTS = {
    **{
        name: _variant(name, variant)
        for name, variant in {
            "StableDiffusionPipeline": "sd1-small",
            "StableDiffusionImg2ImgPipeline": "sd1-small",
            "StableDiffusionInpaintPipeline": "inpaint",
            "StableDiffusionInstructPix2PixPipeline": "instruct",
            "StableDiffusionDepth2ImgPipeline": "depth",
            "StableDiffusionImageVariationPipeline": "variation",
            "LatentConsistencyModelPipeline": "lcm",
            "LatentConsistencyModelImg2ImgPipeline": "lcm",
            "StableDiffusionXLPipeline": "xl",
            "StableDiffusionXLImg2ImgPipeline": "xl",
            "StableDiffusionXLInpaintPipeline": "xl-inpaint",
            "StableDiffusionXLInstructPix2PixPipeline": "xl-instruct",
        }.items()
    },
    **{name: _variant(name, "sd3") for form in _FORMS for name in [f"StableDiffusion3{form}Pipeline"]},
    **{
        f"{base}ControlNet{form}Pipeline": _variant(f"{base}{form}Pipeline", variant, controlnet="first")
        for base, variant in {"StableDiffusion": "sd1", "StableDiffusionXL": "xl"}.items()
        for form in _FORMS
    },
    **{
        f"{base}{form}Pipeline": _variant(f"{base}{form}Pipeline", variant)
        for base, variant in {"StableDiffusionPAG": "sd1-small", "StableDiffusionXLPAG": "xl"}.items()
        for form in _FORMS
    },
    **{
        f"{base}ControlNetPAG{form}Pipeline": _variant(f"{base}PAG{form}Pipeline", variant, controlnet="first")
        for base, form, variant in (
            ("StableDiffusion", "", "sd1"),
            ("StableDiffusion", "Inpaint", "sd1"),
            ("StableDiffusionXL", "", "xl"),
            ("StableDiffusionXL", "Img2Img", "xl"),
        )
    },
    **{
        f"StableDiffusion3ControlNet{form}Pipeline": _variant("StableDiffusion3Pipeline", "sd3", controlnet=kind)
        for form, kind in {"": "first", "Inpainting": "masked"}.items()
    },
    "StableDiffusionAdapterPipeline": _variant("StableDiffusionPipeline", "sd1-small", t2i_adapter="full"),
    "StableDiffusionXLAdapterPipeline": _variant("StableDiffusionXLPipeline", "xl-three", t2i_adapter="xl"),
}

_SYSTEMS: Mapping[str, Callable[[Path], Any]] = {
    "FluxPriorReduxPipeline": make_redux,
    "DDPMPipeline": CHECKPOINTS["ddpm"],
    "DDIMPipeline": CHECKPOINTS["ddim"],
    "PNDMPipeline": CHECKPOINTS["pndm"],
    "ConsistencyModelPipeline": CHECKPOINTS["consistency"],
    "DiTPipeline": CHECKPOINTS["dit"],
    "ScoreSdeVePipeline": CHECKPOINTS["score-sde-ve"],
    "KarrasVePipeline": CHECKPOINTS["karras-ve"],
    "RePaintPipeline": CHECKPOINTS["repaint"],
    **LDM_CHECKPOINTS,
    **UNCLIP_CHECKPOINTS,
    **IF_CHECKPOINTS,
    **IF_IMAGE_CHECKPOINTS,
    "StableDiffusionUpscalePipeline": make_upscaler,
    "StableDiffusionLatentUpscalePipeline": make_latent_upscaler,
    **{
        name: partial(make_prior, name=name)
        for name in ("KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline", "KandinskyPriorPipeline")
    },
    **{
        name: _kandinsky(make_decoder, name)
        for form in (*_FORMS, "Controlnet", "ControlnetImg2Img")
        for name in [f"KandinskyV22{form}Pipeline"]
    },
    **{name: _kandinsky(make_text_decoder, name) for form in _FORMS for name in [f"Kandinsky{form}Pipeline"]},
    "VQDiffusionPipeline": make_vq_diffusion,
    "QwenImageLayeredPipeline": make_qwen_image_layered,
    "QwenImage21Pipeline": make_qwen_image_21,
    **{name: partial(make_sana, name=name) for name in SANA_CLASSES},
    **{name: partial(make_shap_e, name=name) for name in NAMES},
}

_LARGE: Mapping[str, tuple[Callable[[Path], Any], int]] = {
    **{
        name: (partial(make_kandinsky_3, name=name), 64) for name in ("Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline")
    },
    **{
        name: (partial(make_pixart, name=name), 64)
        for name in ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline")
    },
    **{
        name: (partial(make_flux, name=name, **DEV, **options), 16)
        for name, options in {
            **{f"Flux{form}Pipeline": {} for form in (*_FORMS, "Kontext", "KontextInpaint")},
            **{f"FluxControlNet{form}Pipeline": {} for form in _FORMS},
            **{
                f"FluxControl{form}Pipeline": {"in_channels": 8 * LATENTS, "out_channels": 4 * LATENTS}
                for form in _FORMS
            },
            "FluxFillPipeline": {"in_channels": 12 * LATENTS, "out_channels": 4 * LATENTS},
        }.items()
    },
    "AuraFlowPipeline": (make_auraflow, 16),
    "Lumina2Pipeline": (make_lumina2, 32),
    **{
        name: (partial(make_hunyuan_dit, name=name), 32)
        for name in (f"HunyuanDiT{form}Pipeline" for form in ("", "ControlNet", "PAG"))
    },
    **{name: (partial(make_chroma, name=name), 16) for name in CHROMA},
    **{name: (partial(make_z_image, name=name), 16) for name in Z_IMAGE},
    "ZImageOmniPipeline": (make_z_image_omni, 16),
    **{
        name: (partial(make_qwen_image_edit, name=name), 64)
        for name in ("QwenImageEditPipeline", "QwenImageEditPlusPipeline")
    },
    "QwenImageEditInpaintPipeline": (partial(make_qwen_image_edit, name="QwenImageEditInpaintPipeline"), 1024),
    **{
        name: (partial(make_qwen_image, name=name), 16)
        for name in (f"QwenImage{form}Pipeline" for form in (*_FORMS, "ControlNet", "ControlNetInpaint"))
    },
    **{name: (partial(make_klein, name=name), 64) for name in KLEIN_CLASSES},
    "Flux2Pipeline": (make_dev, 64),
    "StableCascadePriorPipeline": (make_cascade_prior, 128),
    "StableCascadeDecoderPipeline": (make_cascade_decoder, 128),
    "WuerstchenPriorPipeline": (make_wuerstchen_prior, 128),
    "WuerstchenDecoderPipeline": (make_wuerstchen_decoder, 128),
}
"""Classes whose own size is measured in seconds: class to the function, and the side of a smaller image."""

CLASS_CHECKPOINTS: Mapping[str, ClassCheckpoint] = {
    **_VARIANTS,
    **{name: ClassCheckpoint(make=make) for name, make in _SYSTEMS.items()},
    **{name: ClassCheckpoint(make=make, size=(side, side)) for name, (make, side) in _LARGE.items()},
}
"""Class of diffusers to its checkpoint."""
