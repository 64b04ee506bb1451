"""Inpainting in pixel space with an unconditional UNet.

Lugmayr et al. 2022, https://arxiv.org/abs/2201.09865. diffusers: `RePaintPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.unet_2d import unet_2d

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(name="repaint", components=(unet_2d(),), folders=("scheduler",))
