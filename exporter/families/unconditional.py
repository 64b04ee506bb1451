"""Unconditional images in pixel space: a UNet without text.

Ho et al. 2020, https://arxiv.org/abs/2006.11239. diffusers: `DDPMPipeline`, `DDIMPipeline`, `PNDMPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.unet_2d import unet_2d

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(name="unconditional", components=(unet_2d(),), folders=("scheduler",))
