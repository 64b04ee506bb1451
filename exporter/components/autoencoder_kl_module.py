"""The two halves of AutoencoderKL as traceable modules; each holds its own weights only."""

import torch
from diffusers import AutoencoderKL

from diffoundry.exporter.component import Component

__all__ = ["DecoderModule", "EncoderModule"]


class EncoderModule(torch.nn.Module):
    """diffusers' `AutoencoderKL.encode`, up to the distribution's parameters."""

    def __init__(self, vae: AutoencoderKL, _component: Component) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Encode images.

        Args:
            sample: Between -1 and 1, (batch, 3, height, width).

        Returns:
            Mean and log-variance of the latents, (batch, 8, height/8, width/8).
        """
        hidden = self.encoder(sample)
        return (hidden if self.quant_conv is None else self.quant_conv(hidden),)


class DecoderModule(torch.nn.Module):
    """diffusers' `AutoencoderKL.decode`."""

    def __init__(self, vae: AutoencoderKL, _component: Component) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder

    def forward(self, latent_sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Decode latents.

        Args:
            latent_sample: Divided by the scaling factor, (batch, 4, height/8, width/8).

        Returns:
            Images around -1 to 1, (batch, 3, height, width).
        """
        hidden = latent_sample if self.post_quant_conv is None else self.post_quant_conv(latent_sample)
        return (self.decoder(hidden),)
