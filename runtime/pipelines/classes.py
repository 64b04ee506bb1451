"""What the names of diffusers' pipeline classes say of a checkpoint: its family, and what it is usually asked for."""

from typing import NamedTuple

__all__ = ["PIPELINE_CLASSES", "PipelineClass"]


class PipelineClass(NamedTuple):
    """One class.

    Attributes:
        family: Its name in `FAMILIES`.
        task: `Task.name`.
    """

    family: str
    task: str


_SD, _XL = "stable_diffusion", "stable_diffusion_xl"

PIPELINE_CLASSES = {
    "StableDiffusionPipeline": PipelineClass(_SD, "text_to_image"),
    "StableDiffusionImg2ImgPipeline": PipelineClass(_SD, "image_to_image"),
    "StableDiffusionInpaintPipeline": PipelineClass(_SD, "inpainting"),
    "StableDiffusionInstructPix2PixPipeline": PipelineClass(_SD, "instruction"),
    "StableDiffusionXLPipeline": PipelineClass(_XL, "text_to_image"),
    "StableDiffusionXLImg2ImgPipeline": PipelineClass(_XL, "image_to_image"),
    "StableDiffusionXLInpaintPipeline": PipelineClass(_XL, "inpainting"),
}
