"""Decoder of VQModel as a traceable module: everything of `VQModel.decode` after the quantizer."""

from typing import Any

import torch

from diffoundry.exporter.component import Component

__all__ = ["VQDecoder"]


class VQDecoder(torch.nn.Module):
    """Decodes latents. A spatially normalized decoder reads them at every level again. diffusers: `VQModel.decode`."""

    def __init__(self, network: torch.nn.Module, component: Component) -> None:  # noqa: ARG002  # as every wrapper
        super().__init__()
        model: Any = network
        self.post_quant_conv = model.post_quant_conv
        self.decoder = model.decoder
        self.spatial = model.config.norm_type == "spatial"

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
        """Return images (B, C, H, W) of latents (B, `vq_embed_dim`, h, w)."""
        return (self.decoder(self.post_quant_conv(latents), latents if self.spatial else None),)
