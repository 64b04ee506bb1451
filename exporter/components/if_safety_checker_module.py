"""DeepFloyd IF's safety checker as a traceable module."""

import torch
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker

from diffoundry.exporter.component import Component

__all__ = ["IFSafetyCheckerModule"]


class IFSafetyCheckerModule(torch.nn.Module):
    """Computes diffusers' `IFSafetyChecker.forward` up to its scores, before they are compared with a threshold."""

    def __init__(self, checker: IFSafetyChecker, _component: Component) -> None:
        super().__init__()
        self.checker = checker

    def forward(self, clip_input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score images.

        Args:
            clip_input: Output of the feature extractor, (batch, 3, side, side).

        Returns:
            Scores for unsafe content and for watermarks, (batch, 1) each.
        """
        embeds = self.checker.vision_model(clip_input)[0]
        return self.checker.p_head(embeds), self.checker.w_head(embeds)
