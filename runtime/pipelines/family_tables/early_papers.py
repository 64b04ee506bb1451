"""Families of early papers: pixels without a VAE, class labels, latent diffusion, codes."""

from diffoundry.runtime.pipelines.family_tables.entry import FamilyEntry, PipelineClass

__all__ = ["EARLY_FAMILIES"]

EARLY_FAMILIES = (
    FamilyEntry(
        name="unconditional",
        classes={
            "DDPMPipeline": PipelineClass("unconditional"),
            "DDIMPipeline": PipelineClass("unconditional"),
            "PNDMPipeline": PipelineClass("unconditional"),
        },
        runtime="diffoundry.runtime.pipelines.systems.unconditional:Unconditional",
        exporter="diffoundry.exporter.families.unconditional:FAMILY",
    ),
    FamilyEntry(
        name="latent_diffusion",
        classes={"LDMPipeline": PipelineClass("unconditional")},
        runtime="diffoundry.runtime.pipelines.systems.latent_diffusion:LatentDiffusion",
        exporter="diffoundry.exporter.families.latent_diffusion:UNCONDITIONAL",
    ),
    FamilyEntry(
        name="latent_diffusion_super_resolution",
        classes={"LDMSuperResolutionPipeline": PipelineClass("super_resolution")},
        runtime="diffoundry.runtime.pipelines.systems.latent_diffusion_super_resolution:LatentSuperResolution",
        exporter="diffoundry.exporter.families.latent_diffusion:SUPER_RESOLUTION",
    ),
    FamilyEntry(
        name="latent_diffusion_text_to_image",
        classes={"LDMTextToImagePipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.latent_diffusion_text_to_image:LatentTextToImage",
        exporter="diffoundry.exporter.families.latent_diffusion:TEXT_TO_IMAGE",
    ),
    FamilyEntry(
        name="vq_diffusion",
        classes={"VQDiffusionPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.vq_diffusion:VQDiffusion",
        exporter="diffoundry.exporter.families.vq_diffusion:FAMILY",
    ),
    FamilyEntry(
        name="consistency_model",
        classes={"ConsistencyModelPipeline": PipelineClass("class_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.consistency_model:ConsistencyModel",
        exporter="diffoundry.exporter.families.consistency_model:FAMILY",
    ),
    FamilyEntry(
        name="dit",
        classes={"DiTPipeline": PipelineClass("class_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.dit:DiT",
        exporter="diffoundry.exporter.families.dit:FAMILY",
    ),
    FamilyEntry(
        name="score_sde_ve",
        classes={"ScoreSdeVePipeline": PipelineClass("unconditional")},
        runtime="diffoundry.runtime.pipelines.systems.score_sde_ve:ScoreSdeVe",
        exporter="diffoundry.exporter.families.score_sde_ve:FAMILY",
    ),
    FamilyEntry(
        name="karras_ve",
        classes={"KarrasVePipeline": PipelineClass("unconditional")},
        runtime="diffoundry.runtime.pipelines.systems.karras_ve:KarrasVe",
        exporter="diffoundry.exporter.families.karras_ve:FAMILY",
    ),
    FamilyEntry(
        name="repaint",
        classes={"RePaintPipeline": PipelineClass("inpainting")},
        runtime="diffoundry.runtime.pipelines.systems.repaint:RePaint",
        exporter="diffoundry.exporter.families.repaint:FAMILY",
    ),
)
