"""DiT: a transformer over latents, with classes.

Peebles and Xie 2022, https://arxiv.org/abs/2212.09748. diffusers: `DiTPipeline`.
"""

from diffoundry.exporter.component import FamilyDeclaration
from diffoundry.exporter.components.dit_transformer import DIT_TRANSFORMER
from diffoundry.exporter.components.vae import vae_decoder

__all__ = ["FAMILY"]

FAMILY = FamilyDeclaration(name="dit", components=(DIT_TRANSFORMER, vae_decoder()), folders=("scheduler",))
