"""Consistency models in pixel space: a UNet without text, with or without classes.

Song et al. 2023, https://arxiv.org/abs/2303.01469. diffusers: `ConsistencyModelPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.unet_2d import unet_2d

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(name="consistency_model", components=(unet_2d(),), folders=("scheduler",))
