"""Families whose denoiser is a UNet of Stable Diffusion."""

from diffoundry.runtime.pipelines.family_tables.entry import FamilyEntry, PipelineClass

__all__ = ["STABLE_DIFFUSION_FAMILIES"]

STABLE_DIFFUSION_FAMILIES = (
    FamilyEntry(
        name="stable_diffusion",
        classes={
            "StableDiffusionPipeline": PipelineClass("text_to_image"),
            "StableDiffusionImg2ImgPipeline": PipelineClass("image_to_image"),
            "StableDiffusionInpaintPipeline": PipelineClass("inpainting"),
            "StableDiffusionInstructPix2PixPipeline": PipelineClass("instruction"),
            "StableDiffusionDepth2ImgPipeline": PipelineClass("depth_to_image"),
            "StableDiffusionControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
            "StableDiffusionControlNetImg2ImgPipeline": PipelineClass("image_to_image", controlnet=True),
            "StableDiffusionControlNetInpaintPipeline": PipelineClass("inpainting", controlnet=True),
            "StableDiffusionAdapterPipeline": PipelineClass("text_to_image", t2i_adapter=True),
        },
        runtime="diffoundry.runtime.pipelines.families.stable_diffusion:StableDiffusion",
        exporter="diffoundry.exporter.families.stable_diffusion:FAMILY",
    ),
    FamilyEntry(
        name="stable_diffusion_pag",
        classes={
            "StableDiffusionPAGPipeline": PipelineClass("text_to_image"),
            "StableDiffusionPAGImg2ImgPipeline": PipelineClass("image_to_image"),
            "StableDiffusionPAGInpaintPipeline": PipelineClass("inpainting"),
            "StableDiffusionControlNetPAGPipeline": PipelineClass("text_to_image", controlnet=True),
            "StableDiffusionControlNetPAGInpaintPipeline": PipelineClass("inpainting", controlnet=True),
        },
        runtime="diffoundry.runtime.pipelines.families.perturbed_stable_diffusion:StableDiffusionPAG",
        exporter="diffoundry.exporter.families.stable_diffusion:PERTURBED",
    ),
    FamilyEntry(
        name="latent_consistency",
        classes={
            "LatentConsistencyModelPipeline": PipelineClass("text_to_image"),
            "LatentConsistencyModelImg2ImgPipeline": PipelineClass("image_to_image"),
        },
        runtime="diffoundry.runtime.pipelines.families.latent_consistency:LatentConsistency",
        exporter="diffoundry.exporter.families.latent_consistency:FAMILY",
    ),
    FamilyEntry(
        name="stable_diffusion_xl",
        classes={
            "StableDiffusionXLPipeline": PipelineClass("text_to_image"),
            "StableDiffusionXLImg2ImgPipeline": PipelineClass("image_to_image"),
            "StableDiffusionXLInpaintPipeline": PipelineClass("inpainting"),
            "StableDiffusionXLInstructPix2PixPipeline": PipelineClass("instruction"),
            "StableDiffusionXLControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
            "StableDiffusionXLControlNetImg2ImgPipeline": PipelineClass("image_to_image", controlnet=True),
            "StableDiffusionXLControlNetInpaintPipeline": PipelineClass("inpainting", controlnet=True),
            "StableDiffusionXLAdapterPipeline": PipelineClass("text_to_image", t2i_adapter=True),
        },
        runtime="diffoundry.runtime.pipelines.families.stable_diffusion_xl:StableDiffusionXL",
        exporter="diffoundry.exporter.families.stable_diffusion_xl:FAMILY",
    ),
    FamilyEntry(
        name="stable_diffusion_xl_pag",
        classes={
            "StableDiffusionXLPAGPipeline": PipelineClass("text_to_image"),
            "StableDiffusionXLPAGImg2ImgPipeline": PipelineClass("image_to_image"),
            "StableDiffusionXLPAGInpaintPipeline": PipelineClass("inpainting"),
            "StableDiffusionXLControlNetPAGPipeline": PipelineClass("text_to_image", controlnet=True),
            "StableDiffusionXLControlNetPAGImg2ImgPipeline": PipelineClass("image_to_image", controlnet=True),
        },
        runtime="diffoundry.runtime.pipelines.families.perturbed_stable_diffusion:StableDiffusionXLPAG",
        exporter="diffoundry.exporter.families.stable_diffusion_xl:PERTURBED",
    ),
    FamilyEntry(
        name="image_variation",
        classes={"StableDiffusionImageVariationPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.families.image_variation:ImageVariation",
        exporter="diffoundry.exporter.families.image_variation:FAMILY",
    ),
    FamilyEntry(
        name="upscaling",
        classes={"StableDiffusionUpscalePipeline": PipelineClass("upscaling")},
        runtime="diffoundry.runtime.pipelines.families.upscaling:Upscaler",
        exporter="diffoundry.exporter.families.upscaling:FAMILY",
    ),
    FamilyEntry(
        name="latent_upscaling",
        classes={"StableDiffusionLatentUpscalePipeline": PipelineClass("upscaling")},
        runtime="diffoundry.runtime.pipelines.systems.latent_upscaling:LatentUpscaler",
        exporter="diffoundry.exporter.families.latent_upscaling:FAMILY",
    ),
)
