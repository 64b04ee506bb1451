"""Stable Diffusion 1.x, 2.x and XL, guided away from perturbed attention.

Ahn et al. 2024, https://arxiv.org/abs/2403.17377. diffusers: `PAGMixin`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.perturbed_unet import PerturbedUNet2DConditionModel
from diffoundry.runtime.pipelines.families.stable_diffusion import CLIPPromptInputs, StableDiffusion
from diffoundry.runtime.pipelines.families.stable_diffusion_xl import StableDiffusionXL, XLPromptInputs
from diffoundry.runtime.pipelines.guidance import Guidance
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.pipelines.perturbed_guidance import choose_perturbed
from diffoundry.runtime.pipelines.systems.perturbed_attention import PerturbedLayers, check_perturbed

__all__ = ["PAGPromptInputs", "StableDiffusionPAG", "StableDiffusionXLPAG", "XLPAGPromptInputs"]

_TASKS = ("text_to_image", "image_to_image", "inpainting")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PAGPromptInputs(CLIPPromptInputs):
    """The prompts of one call, with perturbed attention.

    Attributes:
        pag_scale: Factor of the guidance away from perturbed attention; 0 runs without it.
        pag_adaptive_scale: Decrease of this factor for each timestep below 1000.
        pag_applied_layers: Names of the layers that are perturbed, or parts of them: "mid", "down_blocks.2".
    """

    pag_scale: float = 3.0
    pag_adaptive_scale: float = 0.0
    pag_applied_layers: str | Sequence[str] = "mid"

    def check(self) -> None:
        """See `PromptInputs.check`."""
        CLIPPromptInputs.check(self)
        check_perturbed(self)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class XLPAGPromptInputs(XLPromptInputs):
    """The texts and sizes of one call, with perturbed attention.

    Attributes:
        pag_scale: As in `PAGPromptInputs`.
        pag_adaptive_scale: As there.
        pag_applied_layers: As there.
    """

    pag_scale: float = 3.0
    pag_adaptive_scale: float = 0.0
    pag_applied_layers: str | Sequence[str] = "mid"

    def check(self) -> None:
        """See `PromptInputs.check`."""
        XLPromptInputs.check(self)
        check_perturbed(self)


class StableDiffusionPAG(StableDiffusion):
    """diffusers: `StableDiffusionPAGPipeline`, `StableDiffusionControlNetPAGPipeline` and their forms."""

    Inputs: ClassVar[type[PromptInputs]] = PAGPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"inpainting": {"strength": 0.9999}}
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {},
        "inpainting": {"controlnet_conditioning_scale": 0.5},
    }
    tasks: ClassVar[tuple[str, ...] | None] = _TASKS

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        super().__init__(session)
        self.denoiser = PerturbedUNet2DConditionModel(session)
        self.choose_guidance = _choose_guidance


class StableDiffusionXLPAG(StableDiffusionXL):
    """diffusers: `StableDiffusionXLPAGPipeline`, `StableDiffusionXLControlNetPAGPipeline` and their forms."""

    Inputs: ClassVar[type[PromptInputs]] = XLPAGPromptInputs
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        task: StableDiffusionXL.controlnet_defaults[task] for task in ("text_to_image", "image_to_image")
    }
    t2i_adapter_defaults: ClassVar[Mapping[str, Any]] = {}
    begin_index: ClassVar[int | None] = None
    tasks: ClassVar[tuple[str, ...] | None] = _TASKS

    def __init__(self, session: EngineSession) -> None:
        """See `StableDiffusionXL`."""
        super().__init__(session)
        self.denoiser = PerturbedUNet2DConditionModel(session)
        self.choose_guidance = _choose_guidance


def _choose_guidance(
    inputs: CommonInputs, prompts: PerturbedLayers, denoiser: PerturbedUNet2DConditionModel
) -> Guidance:
    return choose_perturbed(inputs, prompts, denoiser, denoiser.layers)
