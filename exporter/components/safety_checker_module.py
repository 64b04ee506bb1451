"""Stable Diffusion's safety checker as a traceable module."""

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance

from diffoundry.exporter.component import Component

__all__ = ["SafetyCheckerModule"]


class SafetyCheckerModule(torch.nn.Module):
    """Computes diffusers' `StableDiffusionSafetyChecker.forward` up to its scores, before they are rounded."""

    def __init__(self, checker: StableDiffusionSafetyChecker, _component: Component) -> None:
        super().__init__()
        self.checker = checker

    def forward(self, clip_input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score images.

        Args:
            clip_input: Output of the feature extractor, (batch, 3, side, side).

        Returns:
            Cosine with each concept minus the concept's threshold: special concepts (batch, 3), others (batch, 17).
        """
        checker = self.checker
        embeds = checker.visual_projection(checker.vision_model(clip_input)[1])
        special = cosine_distance(embeds, checker.special_care_embeds) - checker.special_care_embeds_weights
        concepts = cosine_distance(embeds, checker.concept_embeds) - checker.concept_embeds_weights
        return special, concepts
