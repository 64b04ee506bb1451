"""Both directions of diffusers' image normalizer as one traceable module."""

import torch
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

from diffoundry.exporter.component import Component

__all__ = ["ImageNormalizerModule"]


class ImageNormalizerModule(torch.nn.Module):
    """Computes `StableUnCLIPImageNormalizer.scale` and `unscale` of the same embeddings."""

    def __init__(self, normalizer: StableUnCLIPImageNormalizer, _component: Component) -> None:
        super().__init__()
        self.normalizer = normalizer

    def forward(self, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings (batch, width) scaled, and unscaled."""
        scaled: torch.Tensor = self.normalizer.scale(embeds)
        unscaled: torch.Tensor = self.normalizer.unscale(embeds)
        return scaled, unscaled
