"""Classifier-free guidance, its rescaling and its embedding, as diffusers computes them."""

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.schedulers.arithmetic.float32 import exp

__all__ = ["guidance_embedding", "guide", "rescale_guidance"]

FloatArray = npt.NDArray[np.float32]


def guide(unconditional: FloatArray, conditional: FloatArray, scale: float) -> FloatArray:
    """Classifier-free guidance: e = e_u + s (e_c - e_u).

    Ho and Salimans 2022, equation 6 (with s = 1 + w), https://arxiv.org/abs/2207.12598.

    Args:
        unconditional: e_u, the output for the empty or negative prompt, (B, C, H, W).
        conditional: e_c, the output for the prompt, same shape.
        scale: s; 1 gives e_c.
    """
    return unconditional + scale * (conditional - unconditional)


def rescale_guidance(guided: FloatArray, conditional: FloatArray, rescale: float) -> FloatArray:
    """Bring the guided output back to the spread of the conditional one.

    e' = phi e std(e_c) / std(e) + (1 - phi) e, the standard deviations per image over channels and pixels.

    Lin et al. 2023, section 3.4, equations 15 and 16, https://arxiv.org/abs/2305.08891.
    diffusers: `rescale_noise_cfg`.

    Args:
        guided: e, (B, C, H, W).
        conditional: e_c, same shape.
        rescale: phi, 0 to 1; 0 changes nothing.
    """
    axes = tuple(range(1, guided.ndim))
    spread: FloatArray = conditional.std(axis=axes, ddof=1, keepdims=True) / guided.std(
        axis=axes, ddof=1, keepdims=True
    )
    rescaled: FloatArray = rescale * (guided * spread) + (1.0 - rescale) * guided
    return rescaled


def guidance_embedding(weight: float, width: int) -> FloatArray:
    """A guidance weight as sines and cosines, as a distilled UNet takes it.

    Luo et al. 2023, section 4.1, https://arxiv.org/abs/2310.04378.
    diffusers: `StableDiffusionPipeline.get_guidance_scale_embedding`.

    Args:
        weight: w, the guidance scale less 1.
        width: Of the embedding; an odd one ends with a zero.

    Returns:
        float32, (1, width).
    """
    half = width // 2
    step = np.log(np.float32(10000.0)) / np.float32(half - 1)
    frequencies = exp(np.arange(half, dtype=np.float32) * -step)
    angles = np.float32(weight) * np.float32(1000.0) * frequencies
    embedding = np.concatenate([np.sin(angles), np.cos(angles)])
    return np.pad(embedding, (0, width % 2))[None]
