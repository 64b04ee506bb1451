"""Families of pipelines that run one after another, or several networks in turn: priors, decoders, cascades."""

from diffoundry.runtime.pipelines.family_tables.entry import FamilyEntry, PipelineClass

__all__ = ["STAGE_FAMILIES"]

STAGE_FAMILIES = (
    FamilyEntry(
        name="kandinsky_prior",
        classes={
            "KandinskyV22PriorPipeline": PipelineClass("prior"),
            "KandinskyV22PriorEmb2EmbPipeline": PipelineClass("image_prior"),
            "KandinskyPriorPipeline": PipelineClass("prior"),
        },
        runtime="diffoundry.runtime.pipelines.systems.kandinsky_prior:KandinskyPrior",
        exporter="diffoundry.exporter.families.kandinsky:PRIOR",
    ),
    FamilyEntry(
        name="kandinsky_2_2",
        classes={
            "KandinskyV22Pipeline": PipelineClass("text_to_image"),
            "KandinskyV22Img2ImgPipeline": PipelineClass("image_to_image"),
            "KandinskyV22InpaintPipeline": PipelineClass("inpainting"),
            "KandinskyV22ControlnetPipeline": PipelineClass("hint"),
            "KandinskyV22ControlnetImg2ImgPipeline": PipelineClass("hint_image_to_image"),
        },
        runtime="diffoundry.runtime.pipelines.systems.kandinsky_decoder:KandinskyDecoder",
        exporter="diffoundry.exporter.families.kandinsky:DECODER",
    ),
    FamilyEntry(
        name="kandinsky_2_1",
        classes={
            "KandinskyPipeline": PipelineClass("text_to_image"),
            "KandinskyImg2ImgPipeline": PipelineClass("image_to_image"),
            "KandinskyInpaintPipeline": PipelineClass("inpainting"),
        },
        runtime="diffoundry.runtime.pipelines.systems.kandinsky_text_decoder:KandinskyTextDecoder",
        exporter="diffoundry.exporter.families.kandinsky:TEXT_DECODER",
    ),
    FamilyEntry(
        name="kandinsky_3",
        classes={
            "Kandinsky3Pipeline": PipelineClass("text_to_image"),
            "Kandinsky3Img2ImgPipeline": PipelineClass("image_to_image"),
        },
        runtime="diffoundry.runtime.pipelines.systems.kandinsky_3:Kandinsky3",
        exporter="diffoundry.exporter.families.kandinsky_3:FAMILY",
    ),
    FamilyEntry(
        name="stable_cascade_prior",
        classes={"StableCascadePriorPipeline": PipelineClass("prior")},
        runtime="diffoundry.runtime.pipelines.systems.stable_cascade_prior:StableCascadePrior",
        exporter="diffoundry.exporter.families.stable_cascade:PRIOR",
    ),
    FamilyEntry(
        name="stable_cascade_decoder",
        classes={"StableCascadeDecoderPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.stable_cascade_decoder:StableCascadeDecoder",
        exporter="diffoundry.exporter.families.stable_cascade:DECODER",
    ),
    FamilyEntry(
        name="wuerstchen_prior",
        classes={"WuerstchenPriorPipeline": PipelineClass("prior")},
        runtime="diffoundry.runtime.pipelines.systems.wuerstchen_prior:WuerstchenPriorPipeline",
        exporter="diffoundry.exporter.families.wuerstchen:PRIOR",
    ),
    FamilyEntry(
        name="wuerstchen_decoder",
        classes={"WuerstchenDecoderPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.wuerstchen_decoder:WuerstchenDecoderPipeline",
        exporter="diffoundry.exporter.families.wuerstchen:DECODER",
    ),
    FamilyEntry(
        name="unclip",
        classes={"UnCLIPPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.unclip:UnCLIP",
        exporter="diffoundry.exporter.families.unclip:FAMILY",
    ),
    FamilyEntry(
        name="unclip_image_variation",
        classes={"UnCLIPImageVariationPipeline": PipelineClass("image_variation")},
        runtime="diffoundry.runtime.pipelines.systems.unclip:UnCLIPImageVariation",
        exporter="diffoundry.exporter.families.unclip:VARIATION",
    ),
    FamilyEntry(
        name="stable_unclip",
        classes={"StableUnCLIPPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.stable_unclip:StableUnCLIP",
        exporter="diffoundry.exporter.families.stable_unclip:FAMILY",
    ),
    FamilyEntry(
        name="stable_unclip_image",
        classes={"StableUnCLIPImg2ImgPipeline": PipelineClass("image_variation")},
        runtime="diffoundry.runtime.pipelines.systems.stable_unclip:StableUnCLIPImage",
        exporter="diffoundry.exporter.families.stable_unclip:IMAGE",
    ),
    FamilyEntry(
        name="shap_e",
        classes={"ShapEPipeline": PipelineClass("prior")},
        runtime="diffoundry.runtime.pipelines.systems.shap_e:ShapE",
        exporter="diffoundry.exporter.families.shap_e:TEXT",
    ),
    FamilyEntry(
        name="shap_e_image",
        classes={"ShapEImg2ImgPipeline": PipelineClass("prior")},
        runtime="diffoundry.runtime.pipelines.systems.shap_e:ShapEImage",
        exporter="diffoundry.exporter.families.shap_e:IMAGE",
    ),
    FamilyEntry(
        name="deepfloyd_if",
        classes={
            "IFPipeline": PipelineClass("text_to_image"),
            "IFImg2ImgPipeline": PipelineClass("image_to_image"),
            "IFInpaintingPipeline": PipelineClass("inpainting"),
        },
        runtime="diffoundry.runtime.pipelines.systems.deepfloyd_if:DeepFloydIF",
        exporter="diffoundry.exporter.families.deepfloyd_if:STAGE_1",
    ),
    FamilyEntry(
        name="deepfloyd_if_super_resolution",
        classes={
            "IFSuperResolutionPipeline": PipelineClass("upscaling"),
            "IFImg2ImgSuperResolutionPipeline": PipelineClass("image_upscaling"),
            "IFInpaintingSuperResolutionPipeline": PipelineClass("inpainting_upscaling"),
        },
        runtime="diffoundry.runtime.pipelines.systems.deepfloyd_if:DeepFloydSuperResolution",
        exporter="diffoundry.exporter.families.deepfloyd_if:STAGE_2",
    ),
)
