"""The two halves of AutoencoderTiny as traceable modules; each holds its own weights only."""

import torch
from diffusers import AutoencoderTiny

from diffoundry.exporter.component import Component

__all__ = ["TinyDecoderModule", "TinyEncoderModule"]


class TinyEncoderModule(torch.nn.Module):
    """diffusers' `AutoencoderTiny.encode`."""

    def __init__(self, vae: AutoencoderTiny, _component: Component) -> None:
        super().__init__()
        self.encoder = vae.encoder

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Encode images.

        Args:
            sample: Between -1 and 1, (batch, 3, height, width).

        Returns:
            Latents, (batch, 4, height/8, width/8).
        """
        return (self.encoder(sample),)


class TinyDecoderModule(torch.nn.Module):
    """diffusers' `AutoencoderTiny.decode`."""

    def __init__(self, vae: AutoencoderTiny, _component: Component) -> None:
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, latent_sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Decode latents.

        Args:
            latent_sample: Divided by the scaling factor, (batch, 4, height/8, width/8).

        Returns:
            Images around -1 to 1, (batch, 3, height, width).
        """
        return (self.decoder(latent_sample),)
