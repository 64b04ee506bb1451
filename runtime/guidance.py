"""Classifier-free guidance and its rescaling, as diffusers computes them."""

import numpy as np
import numpy.typing as npt

__all__ = ["guide", "rescale_guidance"]

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

    e' = phi e std(e_c) / std(e) + (1 - phi) e, the standard deviations per picture over channels and pixels.

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
