"""Image encoder of SigLIP 2 as a traceable module, whose interpolated positions are a product of matrices."""

from typing import Any

import torch

from diffoundry.exporter.component import Component

__all__ = ["Siglip2VisionModule"]


class Siglip2VisionModule(torch.nn.Module):
    """Computes states of patches. transformers: `Siglip2VisionModel.forward`, without a mask and without its head."""

    def __init__(self, network: Any, _component: Component) -> None:
        super().__init__()
        vision = getattr(network, "vision_model", network)
        self.embeddings, self.layers, self.norm = vision.embeddings, vision.encoder.layers, vision.post_layernorm

    def forward(self, pixel_values: torch.Tensor, position_weights: torch.Tensor) -> tuple[torch.Tensor]:
        """Encode images of as many patches.

        Args:
            pixel_values: Values of patches, float32 (B, patches, values).
            position_weights: Weights of the learned positions for each patch, float32 (B, patches, positions).

        Returns:
            States (B, patches, D).
        """
        positions = position_weights @ self.embeddings.position_embedding.weight
        states = self.embeddings.patch_embedding(pixel_values) + positions
        for layer in self.layers:
            states = layer(states, attention_mask=None)
        return (self.norm(states),)
