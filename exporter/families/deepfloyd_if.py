"""DeepFloyd IF: images of 64 pixels from a prompt, in pixel space, and the stage that enlarges them to 256.

diffusers: `IFPipeline`, `IFSuperResolutionPipeline`, and their forms for images and masks, which run the same networks.
Its third stage is an x4 upscaler.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.if_safety_checker import IF_SAFETY_CHECKER
from diffoundry.exporter.components.t5_text import t5_text_encoder
from diffoundry.exporter.components.unet import unet_2d_condition
from diffoundry.runtime.models.if_watermarker import FOLDER

__all__ = ["STAGE_1", "STAGE_2"]

_TEXT = t5_text_encoder("text_encoder", tokens=77, mask=True, optional=True)

STAGE_1 = FamilyDeclaration(
    name="deepfloyd_if",
    components=(_TEXT, unet_2d_condition(), IF_SAFETY_CHECKER),
    folders=("scheduler", "tokenizer", "feature_extractor"),
    weight_folders=(FOLDER,),
)

STAGE_2 = FamilyDeclaration(
    name="deepfloyd_if_super_resolution",
    components=(_TEXT, unet_2d_condition(feeds=("class_labels",)), IF_SAFETY_CHECKER),
    folders=("scheduler", "image_noising_scheduler", "tokenizer", "feature_extractor"),
    weight_folders=(FOLDER,),
)
