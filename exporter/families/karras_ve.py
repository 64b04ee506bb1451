"""Unconditional images in pixel space with a stochastic sampler: a UNet without text.

Karras et al. 2022, https://arxiv.org/abs/2206.00364. diffusers: `KarrasVePipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.unet_2d import unet_2d

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(name="karras_ve", components=(unet_2d(),), folders=("scheduler",))
