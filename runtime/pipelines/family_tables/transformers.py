"""Families whose denoiser is a transformer that reads a prompt, but for those of FLUX."""

from diffoundry.runtime.pipelines.family_tables.entry import FamilyEntry, PipelineClass

__all__ = ["TRANSFORMER_FAMILIES"]

TRANSFORMER_FAMILIES = (
    FamilyEntry(
        name="stable_diffusion_3",
        classes={
            "StableDiffusion3Pipeline": PipelineClass("text_to_image"),
            "StableDiffusion3Img2ImgPipeline": PipelineClass("image_to_image"),
            "StableDiffusion3InpaintPipeline": PipelineClass("inpainting"),
            "StableDiffusion3ControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
            "StableDiffusion3ControlNetInpaintingPipeline": PipelineClass(
                "text_to_image", controlnet=True, control_mask=True
            ),
        },
        runtime="diffoundry.runtime.pipelines.families.stable_diffusion_3:StableDiffusion3",
        exporter="diffoundry.exporter.families.stable_diffusion_3:FAMILY",
    ),
    FamilyEntry(
        name="auraflow",
        classes={"AuraFlowPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.families.auraflow:AuraFlow",
        exporter="diffoundry.exporter.families.auraflow:FAMILY",
    ),
    FamilyEntry(
        name="z_image",
        classes={
            "ZImagePipeline": PipelineClass("text_to_image"),
            "ZImageImg2ImgPipeline": PipelineClass("image_to_image"),
            "ZImageInpaintPipeline": PipelineClass("inpainting"),
            "ZImageControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
            "ZImageControlNetInpaintPipeline": PipelineClass("controlnet_inpainting", controlnet=True),
        },
        runtime="diffoundry.runtime.pipelines.families.z_image:ZImage",
        exporter="diffoundry.exporter.families.z_image:FAMILY",
    ),
    FamilyEntry(
        name="z_image_omni",
        classes={"ZImageOmniPipeline": PipelineClass("omni_editing")},
        runtime="diffoundry.runtime.pipelines.families.z_image_omni:ZImageOmni",
        exporter="diffoundry.exporter.families.z_image:OMNI",
    ),
    FamilyEntry(
        name="qwen_image",
        classes={
            "QwenImagePipeline": PipelineClass("text_to_image"),
            "QwenImageImg2ImgPipeline": PipelineClass("image_to_image"),
            "QwenImageInpaintPipeline": PipelineClass("inpainting"),
            "QwenImageControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
            "QwenImageControlNetInpaintPipeline": PipelineClass("text_to_image", controlnet=True, control_mask=True),
        },
        runtime="diffoundry.runtime.pipelines.families.qwen_image:QwenImage",
        exporter="diffoundry.exporter.families.qwen_image:FAMILY",
    ),
    FamilyEntry(
        name="qwen_image_edit",
        classes={
            "QwenImageEditPipeline": PipelineClass("prompt_editing"),
            "QwenImageEditInpaintPipeline": PipelineClass("prompt_edit_inpainting"),
        },
        runtime="diffoundry.runtime.pipelines.families.qwen_image_edit:QwenImageEdit",
        exporter="diffoundry.exporter.families.qwen_image:EDIT",
    ),
    FamilyEntry(
        name="qwen_image_edit_plus",
        classes={"QwenImageEditPlusPipeline": PipelineClass("several_image_editing")},
        runtime="diffoundry.runtime.pipelines.families.qwen_image_edit:QwenImageEditPlus",
        exporter="diffoundry.exporter.families.qwen_image:EDIT_PLUS",
    ),
    FamilyEntry(
        name="qwen_image_layered",
        classes={"QwenImageLayeredPipeline": PipelineClass("layer_decomposition")},
        runtime="diffoundry.runtime.pipelines.families.qwen_image_layered:QwenImageLayered",
        exporter="diffoundry.exporter.families.qwen_image:LAYERED",
    ),
    FamilyEntry(
        name="qwen_image_21",
        classes={"QwenImage21Pipeline": PipelineClass("image_conditioning")},
        runtime="diffoundry.runtime.pipelines.families.qwen_image_21:QwenImage21",
        exporter="diffoundry.exporter.families.qwen_image:VERSION_2_1",
    ),
    FamilyEntry(
        name="lumina2",
        classes={"Lumina2Pipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.families.lumina2:Lumina2",
        exporter="diffoundry.exporter.families.lumina2:FAMILY",
    ),
    FamilyEntry(
        name="hunyuan_dit",
        classes={
            "HunyuanDiTPipeline": PipelineClass("text_to_image"),
            "HunyuanDiTControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
        },
        runtime="diffoundry.runtime.pipelines.families.hunyuan_dit:HunyuanDiT",
        exporter="diffoundry.exporter.families.hunyuan_dit:FAMILY",
    ),
    FamilyEntry(
        name="hunyuan_dit_pag",
        classes={"HunyuanDiTPAGPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.families.hunyuan_dit:HunyuanDiTPAG",
        exporter="diffoundry.exporter.families.hunyuan_dit:PERTURBED",
    ),
    FamilyEntry(
        name="pixart_alpha",
        classes={"PixArtAlphaPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.pixart:PixArtAlpha",
        exporter="diffoundry.exporter.families.pixart:ALPHA",
    ),
    FamilyEntry(
        name="pixart_sigma",
        classes={"PixArtSigmaPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.pixart:PixArtSigma",
        exporter="diffoundry.exporter.families.pixart:SIGMA",
    ),
    FamilyEntry(
        name="pixart_sigma_pag",
        classes={"PixArtSigmaPAGPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.pixart_pag:PixArtSigmaPAG",
        exporter="diffoundry.exporter.families.pixart:SIGMA_PAG",
    ),
    FamilyEntry(
        name="sana",
        classes={
            "SanaPipeline": PipelineClass("text_to_image"),
            "SanaControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
        },
        runtime="diffoundry.runtime.pipelines.systems.sana:Sana",
        exporter="diffoundry.exporter.families.sana:FAMILY",
    ),
    FamilyEntry(
        name="sana_pag",
        classes={"SanaPAGPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.sana:SanaPAG",
        exporter="diffoundry.exporter.families.sana:PERTURBED",
    ),
    FamilyEntry(
        name="sana_sprint",
        classes={
            "SanaSprintPipeline": PipelineClass("text_to_image"),
            "SanaSprintImg2ImgPipeline": PipelineClass("image_to_image"),
        },
        runtime="diffoundry.runtime.pipelines.systems.sana_sprint:SanaSprint",
        exporter="diffoundry.exporter.families.sana:SPRINT",
    ),
)
