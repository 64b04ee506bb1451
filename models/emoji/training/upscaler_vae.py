"""The upscaler's autoencoder: four times smaller latents, with the spread that diffusers' pipeline expects."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL

from diffoundry_models.emoji.training.checkpoint import load_network, write_component
from diffoundry_models.emoji.training.data import SIZE, Emoji, image
from diffoundry_models.emoji.training.linear_start import start_linear
from diffoundry_models.emoji.training.loop import Options, TrainingTask
from diffoundry_models.emoji.training.vae import kl_divergence, moments, reconstruction_loss
from diffoundry_models.emoji.training.workspace import Workspace, draw_indices, draw_normal

__all__ = [
    "FACTOR",
    "draw_corners",
    "encode_large",
    "large_images",
    "to_float",
    "upscaler_vae_task",
    "write_upscaler_vae",
]

FACTOR = 4
_CROP = 64
_KL_WEIGHT = 1e-4
_ENCODE_BATCH = 4
_SAMPLED = 8  # images for one whose latents are measured


def large_images(emoji: Sequence[Emoji]) -> torch.Tensor:
    """Read the images at 256 pixels, uint8 (N, 3, 256, 256): a quarter of the memory of float32."""
    return torch.from_numpy(np.stack([image(one.file, FACTOR) for one in emoji]))


def upscaler_vae_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the first stage: L1 + MSE + gradients + KL on random crops of 64 pixels, from `start_linear`.

    The network runs in bfloat16, its weights stay float32.
    """
    if space.init is not None:
        vae = load_network(AutoencoderKL, space.init / "vae")
    else:
        torch.manual_seed(options.seed)
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(space.architecture / "vae"))
        start_linear(vae)
    vae.to(space.device).train()
    images = large_images(space.emoji).to(space.device)

    def loss(generator: torch.Generator) -> torch.Tensor:
        picked = draw_indices(options.batch, len(images), generator, torch.device("cpu"))
        corners = draw_corners(options.batch, FACTOR * SIZE - _CROP, generator)
        pairs = zip(picked.tolist(), corners, strict=True)
        target = to_float(torch.stack([images[i, :, y : y + _CROP, x : x + _CROP] for i, (y, x) in pairs]))
        with torch.autocast(space.device.type, torch.bfloat16):
            mean, log_variance = (part.float() for part in moments(vae, target))
            sample = mean + torch.exp(0.5 * log_variance) * draw_normal(mean, generator)
            output = vae.decode(sample).sample.float()
        return reconstruction_loss(output, target) + _KL_WEIGHT * kl_divergence(mean, log_variance)

    return TrainingTask(stage="vae", module=vae, loss=loss, data=space.fingerprint)


def draw_corners(count: int, largest: int, generator: torch.Generator) -> list[list[int]]:
    """Draw the upper left corners of crops, each row and column from 0 to `largest`."""
    corners: list[list[int]] = torch.randint(largest + 1, (count, 2), generator=generator).tolist()
    return corners


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 to float32 from -1 to 1."""
    return images.float() / 127.5 - 1.0


@torch.no_grad()
def encode_large(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and standard deviation of the unscaled latents.

    Args:
        vae: the upscaler's.
        images: uint8 (N, 3, 256, 256).

    Returns:
        Two of float32 (N, 4, 64, 64).
    """
    parts = (moments(vae, to_float(part)) for part in torch.split(images, _ENCODE_BATCH))
    means, log_variances = zip(*parts, strict=True)
    return torch.cat(means), torch.exp(0.5 * torch.cat(log_variances))


def write_upscaler_vae(space: Workspace, vae: AutoencoderKL) -> None:
    """Save the autoencoder in float16, with normalized latents.

    diffusers' StableDiffusionUpscalePipeline sets the scaling factor of every autoencoder to 0.08333. So the last
    layer of the encoder and the first of the decoder are changed until each channel of the latents times this factor
    has a mean of 0 and a standard deviation of 1. Images do not change.
    """
    vae = copy.deepcopy(vae)
    mean, deviation = encode_large(vae, large_images(space.emoji[::_SAMPLED]).to(space.device))
    center = mean.mean((0, 2, 3))
    spread = torch.sqrt(mean.var((0, 2, 3)) + deviation.square().mean((0, 2, 3)))
    factor = 1.0 / (vae.config.scaling_factor * spread)
    channels = vae.config.latent_channels
    first, last = vae.post_quant_conv, vae.quant_conv
    with torch.no_grad():
        last.weight[:channels] *= factor[:, None, None, None]
        last.bias[:channels] = (last.bias[:channels] - center) * factor
        last.bias[channels:] += 2 * torch.log(factor)
        first.bias += first.weight[:, :, 0, 0] @ center
        first.weight /= factor[:, None, None]
    write_component(vae.half(), space.out / "vae")
