"""Values of a batch of images, shaped to meet their arrays."""

from diffoundry.runtime.schedulers.arithmetic.float32 import Float32Array

__all__ = ["per_image"]


def per_image(values: Float32Array, ndim: int) -> Float32Array:
    """One value for each image, shaped to multiply a batch: (B,) to (B, 1, ..., 1)."""
    return values.reshape(-1, *[1] * (ndim - 1))
