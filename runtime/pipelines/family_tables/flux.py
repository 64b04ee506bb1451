"""FLUX.1, FLUX.2, and Chroma, which comes from FLUX.1."""

from diffoundry.runtime.pipelines.family_tables.entry import FamilyEntry, PipelineClass

__all__ = ["FLUX_FAMILIES"]

FLUX_FAMILIES = (
    FamilyEntry(
        name="flux",
        classes={
            "FluxPipeline": PipelineClass("text_to_image"),
            "FluxImg2ImgPipeline": PipelineClass("image_to_image"),
            "FluxInpaintPipeline": PipelineClass("inpainting"),
            "FluxControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
            "FluxControlNetImg2ImgPipeline": PipelineClass("image_to_image", controlnet=True),
            "FluxControlNetInpaintPipeline": PipelineClass("inpainting", controlnet=True),
        },
        runtime="diffoundry.runtime.pipelines.families.flux:Flux",
        exporter="diffoundry.exporter.families.flux:FAMILY",
    ),
    FamilyEntry(
        name="flux_fill",
        classes={"FluxFillPipeline": PipelineClass("fill")},
        runtime="diffoundry.runtime.pipelines.families.flux:FluxFill",
        exporter="diffoundry.exporter.families.flux:FILL",
    ),
    FamilyEntry(
        name="flux_control",
        classes={
            "FluxControlPipeline": PipelineClass("control"),
            "FluxControlImg2ImgPipeline": PipelineClass("control_image_to_image"),
            "FluxControlInpaintPipeline": PipelineClass("control_inpainting"),
        },
        runtime="diffoundry.runtime.pipelines.families.flux:FluxControl",
        exporter="diffoundry.exporter.families.flux:CONTROL",
    ),
    FamilyEntry(
        name="flux_kontext",
        classes={
            "FluxKontextPipeline": PipelineClass("reference"),
            "FluxKontextInpaintPipeline": PipelineClass("kontext_inpainting"),
        },
        runtime="diffoundry.runtime.pipelines.families.flux:FluxKontext",
        exporter="diffoundry.exporter.families.flux:KONTEXT",
    ),
    FamilyEntry(
        name="flux_redux",
        classes={"FluxPriorReduxPipeline": PipelineClass("prior")},
        runtime="diffoundry.runtime.pipelines.systems.flux_redux:FluxPriorRedux",
        exporter="diffoundry.exporter.families.flux:REDUX",
    ),
    FamilyEntry(
        name="flux_2_klein",
        classes={
            "Flux2KleinPipeline": PipelineClass("editing"),
            "Flux2KleinInpaintPipeline": PipelineClass("reference_inpainting"),
        },
        runtime="diffoundry.runtime.pipelines.families.flux_2:Flux2Klein",
        exporter="diffoundry.exporter.families.flux_2:KLEIN",
    ),
    FamilyEntry(
        name="flux_2_klein_kv",
        classes={"Flux2KleinKVPipeline": PipelineClass("editing")},
        runtime="diffoundry.runtime.pipelines.families.flux_2:Flux2KleinKV",
        exporter="diffoundry.exporter.families.flux_2:KLEIN_KV",
    ),
    FamilyEntry(
        name="flux_2_dev",
        classes={"Flux2Pipeline": PipelineClass("editing")},
        runtime="diffoundry.runtime.pipelines.families.flux_2:Flux2",
        exporter="diffoundry.exporter.families.flux_2:DEV",
    ),
    FamilyEntry(
        name="chroma",
        classes={
            "ChromaPipeline": PipelineClass("text_to_image"),
            "ChromaImg2ImgPipeline": PipelineClass("image_to_image"),
            "ChromaInpaintPipeline": PipelineClass("inpainting"),
        },
        runtime="diffoundry.runtime.pipelines.families.chroma:Chroma",
        exporter="diffoundry.exporter.families.chroma:FAMILY",
    ),
)
