"""Score-based generation in pixel space: a UNet over noise levels.

Song et al. 2020, https://arxiv.org/abs/2011.13456. diffusers: `ScoreSdeVePipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.unet_2d import unet_2d

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(name="score_sde_ve", components=(unet_2d(),), folders=("scheduler",))
