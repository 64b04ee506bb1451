"""CLIP's image encoder as a traceable module."""

import torch

from diffoundry.exporter.component import Component

__all__ = ["ImageEncoderModule"]


class ImageEncoderModule(torch.nn.Module):
    """transformers' `CLIPVisionModelWithProjection` with a tensor in, a tensor out."""

    def __init__(self, model: torch.nn.Module, _component: Component) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor]:
        """Encode images.

        Args:
            pixel_values: As the feature extractor gives them, (batch, 3, side, side).

        Returns:
            The projected vector of each, (batch, width).
        """
        return (self.model(pixel_values=pixel_values).image_embeds,)
