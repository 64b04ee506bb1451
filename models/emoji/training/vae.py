"""The autoencoder's two stages: encoder and decoder together, then the decoder alone on disturbed latents."""

import copy
import functools
import itertools

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from diffoundry_models.emoji.training.checkpoint import load_network, write_component
from diffoundry_models.emoji.training.loop import Options, TrainingTask
from diffoundry_models.emoji.training.workspace import Workspace, draw_indices, draw_normal

__all__ = [
    "autoencoder_task",
    "decoder_task",
    "encode",
    "kl_divergence",
    "moments",
    "reconstruction_loss",
    "write_vae",
]

_KL_WEIGHT = 5e-4
_GRADIENT_WEIGHT = 0.5
_DISTURBANCE = 0.25
_SHIFTS = tuple(itertools.product((-1, 0, 1), repeat=2))
_ENCODE_BATCH = 64


def autoencoder_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the first stage: L1 + MSE + gradients + KL on images shifted by at most one pixel."""
    if space.init is not None:
        vae = load_network(AutoencoderKL, space.init / "vae")
    else:
        torch.manual_seed(options.seed)
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(space.architecture / "vae"))
    vae.to(space.device).train()

    def loss(generator: torch.Generator) -> torch.Tensor:
        picked = draw_indices(options.batch, len(space.images), generator, space.device)
        shifts = draw_indices(options.batch, len(_SHIFTS), generator, space.device)
        target = _shift(space.images[picked], shifts)
        mean, log_variance = moments(vae, target)
        sample = mean + torch.exp(0.5 * log_variance) * draw_normal(mean, generator)
        output = vae.decode(sample).sample
        return reconstruction_loss(output, target) + _KL_WEIGHT * kl_divergence(mean, log_variance)

    return TrainingTask(stage="vae", module=vae, loss=loss, data=space.fingerprint)


def decoder_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the second stage: the encoder is frozen, and latents are disturbed as a sampler leaves them.

    Noise of up to a quarter of the latents' spread, its strength drawn for each image.
    """
    vae = load_network(AutoencoderKL, space.component("vae", "vae")).to(space.device).train()
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    mean, deviation = _encode_shifted(vae, space.images)
    spread = float(mean.std())

    def loss(generator: torch.Generator) -> torch.Tensor:
        picked = draw_indices(options.batch, len(space.images), generator, space.device)
        shifts = draw_indices(options.batch, len(_SHIFTS), generator, space.device)
        latents = mean[shifts, picked]
        latents = latents + deviation[shifts, picked] * draw_normal(latents, generator)
        strength = _DISTURBANCE * torch.rand((options.batch, 1, 1, 1), generator=generator).to(space.device)
        latents = latents + strength * spread * draw_normal(latents, generator)
        output = vae.decode(latents).sample
        return reconstruction_loss(output, _shift(space.images[picked], shifts))

    return TrainingTask(stage="vae-decoder", module=vae, loss=loss, data=space.fingerprint)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute L1 + MSE + half the L1 of the differences between neighbours, which keeps edges sharp.

    Args:
        output: float32 (B, 3, H, W), -1 to 1.
        target: likewise.

    Returns:
        A scalar.
    """
    down, across = (functional.l1_loss(output.diff(dim=axis), target.diff(dim=axis)) for axis in (2, 3))
    pixels = functional.l1_loss(output, target) + functional.mse_loss(output, target)
    return pixels + _GRADIENT_WEIGHT * (down + across)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and standard deviation of the latents of all images, each float32 (N, 4, H/8, W/8), unscaled."""
    means, log_variances = zip(*(moments(vae, part) for part in torch.split(images, _ENCODE_BATCH)), strict=True)
    return torch.cat(means), torch.exp(0.5 * torch.cat(log_variances))


def write_vae(space: Workspace, vae: AutoencoderKL, *, rescale: bool) -> None:
    """Save the autoencoder in float16.

    Args:
        space: the data and the place.
        vae: the weights; unchanged, in float32.
        rescale: measure the latents' spread and set the scaling factor to its inverse, as latent diffusion does
            (Rombach et al. 2022, appendix G); not for the decoder stage, whose latents do not change.
    """
    vae = copy.deepcopy(vae)
    if rescale:
        mean, deviation = encode(vae, space.images)
        # The variance of a draw is the variance of the means plus the mean variance: no chance is needed.
        spread = torch.sqrt(mean.var() + deviation.square().mean())
        vae.register_to_config(scaling_factor=1.0 / float(spread))
    write_component(vae.half(), space.out / "vae")


def moments(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images to the mean and the log variance of their latents, unscaled."""
    posterior = vae.encode(images).latent_dist
    return posterior.mean, posterior.logvar


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Compute the divergence from the standard normal, mean over all latents. Kingma and Welling 2014, appendix B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def _shift(images: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Shift each image by its entry of `_SHIFTS`; the white frame wraps around."""
    moves = (_SHIFTS[i] for i in shifts.tolist())
    return torch.stack([torch.roll(p, move, (1, 2)) for p, move in zip(images, moves, strict=True)])


def _encode_shifted(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply `encode` to all images under all shifts, each (9, N, 4, H/8, W/8): the encoder runs only once."""
    rolled = (torch.roll(images, move, (2, 3)) for move in _SHIFTS)
    means, deviations = zip(*map(functools.partial(encode, vae), rolled), strict=True)
    return torch.stack(means), torch.stack(deviations)
