"""Restores the spread of a prediction for the prompt after guidance."""

from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["rescale_noise"]


def rescale_noise(guided: FloatArray, conditional: FloatArray, rescale: float) -> FloatArray:
    """Return e' = phi e std(e_c) / std(e) + (1 - phi) e, with standard deviations per image.

    Lin et al. 2023, equations 15 and 16, https://arxiv.org/abs/2305.08891; diffusers: `rescale_noise_cfg`.

    Args:
        guided: e, (B, ...).
        conditional: e_c, the same for the prompt alone.
        rescale: phi, 0 to 1.
    """
    axes = tuple(range(1, guided.ndim))
    before, after = (one.std(axis=axes, ddof=1, keepdims=True) for one in (conditional, guided))
    scaled: FloatArray = rescale * (guided * (before / after)) + (1.0 - rescale) * guided
    return scaled
