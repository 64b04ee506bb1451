"""The table of families: the pipeline classes of diffusers that each covers, and its two halves.

A new family is its files and one entry here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "FAMILY_TABLE",
    "FamilyEntry",
    "PipelineClass",
    "class_of_call",
    "class_with",
    "family_of_class",
    "find_family_entry",
]


class PipelineClass(NamedTuple):
    """A pipeline class of diffusers.

    Attributes:
        task: `Task.name` of the task that it is for.
        controlnet: True if it has ControlNets.
        t2i_adapter: True if it has T2I-Adapters.
        control_mask: True if its ControlNets take a mask beside the image.
    """

    task: str
    controlnet: bool = False
    t2i_adapter: bool = False
    control_mask: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyEntry:
    """One family.

    Attributes:
        name: Name in the manifest.
        classes: Name of a pipeline class to its task.
        runtime: "module:attribute" of the subclass of `runtime.pipelines.families.base.Family`, or of
            `runtime.pipelines.staged.StagedPipeline`.
        exporter: "module:attribute" of the `exporter.component.Family`.
    """

    name: str
    classes: Mapping[str, PipelineClass]
    runtime: str
    exporter: str


FAMILY_TABLE = (
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
            "StableDiffusionXLControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
            "StableDiffusionXLControlNetImg2ImgPipeline": PipelineClass("image_to_image", controlnet=True),
            "StableDiffusionXLControlNetInpaintPipeline": PipelineClass("inpainting", controlnet=True),
            "StableDiffusionXLAdapterPipeline": PipelineClass("text_to_image", t2i_adapter=True),
        },
        runtime="diffoundry.runtime.pipelines.families.stable_diffusion_xl:StableDiffusionXL",
        exporter="diffoundry.exporter.families.stable_diffusion_xl:FAMILY",
    ),
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
        name="chroma",
        classes={
            "ChromaPipeline": PipelineClass("text_to_image"),
            "ChromaImg2ImgPipeline": PipelineClass("image_to_image"),
            "ChromaInpaintPipeline": PipelineClass("inpainting"),
        },
        runtime="diffoundry.runtime.pipelines.families.chroma:Chroma",
        exporter="diffoundry.exporter.families.chroma:FAMILY",
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
        },
        runtime="diffoundry.runtime.pipelines.families.z_image:ZImage",
        exporter="diffoundry.exporter.families.z_image:FAMILY",
    ),
    FamilyEntry(
        name="qwen_image",
        classes={
            "QwenImagePipeline": PipelineClass("text_to_image"),
            "QwenImageImg2ImgPipeline": PipelineClass("image_to_image"),
            "QwenImageInpaintPipeline": PipelineClass("inpainting"),
            "QwenImageControlNetPipeline": PipelineClass("text_to_image", controlnet=True),
        },
        runtime="diffoundry.runtime.pipelines.families.qwen_image:QwenImage",
        exporter="diffoundry.exporter.families.qwen_image:FAMILY",
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
        name="qwen_image_edit",
        classes={"QwenImageEditPipeline": PipelineClass("prompt_editing")},
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
        name="flux_2_klein_kv",
        classes={"Flux2KleinKVPipeline": PipelineClass("editing")},
        runtime="diffoundry.runtime.pipelines.families.flux_2:Flux2KleinKV",
        exporter="diffoundry.exporter.families.flux_2:KLEIN_KV",
    ),
    FamilyEntry(
        name="lumina2",
        classes={"Lumina2Pipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.families.lumina2:Lumina2",
        exporter="diffoundry.exporter.families.lumina2:FAMILY",
    ),
    FamilyEntry(
        name="hunyuan_dit",
        classes={"HunyuanDiTPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.families.hunyuan_dit:HunyuanDiT",
        exporter="diffoundry.exporter.families.hunyuan_dit:FAMILY",
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
    FamilyEntry(
        name="pixart_sigma_pag",
        classes={"PixArtSigmaPAGPipeline": PipelineClass("text_to_image")},
        runtime="diffoundry.runtime.pipelines.systems.pixart_pag:PixArtSigmaPAG",
        exporter="diffoundry.exporter.families.pixart:SIGMA_PAG",
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
"""Every family that the exporter and the runtime know."""


def find_family_entry(name: str) -> FamilyEntry | None:
    """Return the family of this name."""
    return next((entry for entry in FAMILY_TABLE if entry.name == name), None)


def family_of_class(pipeline_class: str) -> FamilyEntry | None:
    """Return the family that covers a pipeline class of diffusers."""
    return next((entry for entry in FAMILY_TABLE if pipeline_class in entry.classes), None)


def class_with(pipeline_class: str, part: str) -> str | None:
    """Return the class that does the same with joined networks; the class itself when it has them. None without one.

    Args:
        pipeline_class: Of diffusers.
        part: Field of `PipelineClass` for the networks: "controlnet", "t2i_adapter" or "control_mask".
    """
    entry = family_of_class(pipeline_class)
    if entry is None:
        return None
    has: dict[str, Any] = {part: True}
    wanted = entry.classes[pipeline_class]._replace(**has)
    return next((name for name, found in entry.classes.items() if found == wanted), None)


def class_of_call(pipeline_class: str, task: str, *, controlnet: bool) -> str:
    """Return the pipeline class of diffusers that does what a call does.

    Args:
        pipeline_class: Class that the checkpoint names; it wins where it does this itself, or where none does.
        task: `Task.name` of the task of the call.
        controlnet: True if ControlNets run.
    """
    entry, wanted = family_of_class(pipeline_class), PipelineClass(task, controlnet)
    if entry is None or entry.classes[pipeline_class]._replace(control_mask=False) == wanted:
        return pipeline_class
    return next((name for name, found in entry.classes.items() if found == wanted), pipeline_class)
