"""What the names of diffusers' pipeline classes say of a checkpoint: its family, and what it is usually asked for."""

from typing import NamedTuple

__all__ = ["CONTROLNET_CLASSES", "PIPELINE_CLASSES", "PipelineClass"]


class PipelineClass(NamedTuple):
    """One class.

    Attributes:
        family: Its name in `FAMILIES`.
        task: `Task.name`.
    """

    family: str
    task: str


_SD, _XL = "stable_diffusion", "stable_diffusion_xl"

_PLAIN = {
    "StableDiffusionPipeline": PipelineClass(_SD, "text_to_image"),
    "StableDiffusionImg2ImgPipeline": PipelineClass(_SD, "image_to_image"),
    "StableDiffusionInpaintPipeline": PipelineClass(_SD, "inpainting"),
    "StableDiffusionInstructPix2PixPipeline": PipelineClass(_SD, "instruction"),
    "StableDiffusionImageVariationPipeline": PipelineClass("image_variation", "text_to_image"),
    "StableDiffusionXLPipeline": PipelineClass(_XL, "text_to_image"),
    "StableDiffusionXLImg2ImgPipeline": PipelineClass(_XL, "image_to_image"),
    "StableDiffusionXLInpaintPipeline": PipelineClass(_XL, "inpainting"),
    "StableDiffusion3Pipeline": PipelineClass("stable_diffusion_3", "text_to_image"),
}

CONTROLNET_CLASSES = {
    "StableDiffusionPipeline": "StableDiffusionControlNetPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionInpaintPipeline": "StableDiffusionControlNetInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLControlNetPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline": "StableDiffusionXLControlNetInpaintPipeline",
}
"""Each class to the one that does the same with ControlNets."""

PIPELINE_CLASSES = {**_PLAIN, **{guided: _PLAIN[plain] for plain, guided in CONTROLNET_CLASSES.items()}}
"""Every class that a checkpoint may name."""
