"""Takes torch tensors as arrays, without importing torch."""

from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tensor", "channels_last", "is_tensor", "to_array"]


class Tensor(Protocol):
    """The part of `torch.Tensor` that is used here."""

    @property
    def shape(self) -> Any:
        """The sizes."""

    @property
    def ndim(self) -> int:
        """The number of axes."""

    def detach(self) -> Any:
        """The numbers without a graph of gradients."""


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Return whether a value is a tensor of torch."""
    return all(hasattr(value, name) for name in ("detach", "cpu", "numpy", "ndim"))


def to_array(value: Tensor) -> NDArray[Any]:
    """Copy a tensor to an array of the same layout; bfloat16, which NumPy does not have, becomes float32."""
    on_cpu = value.detach().cpu()
    array: NDArray[Any] = np.array((on_cpu.float() if str(on_cpu.dtype) == "torch.bfloat16" else on_cpu).numpy())
    return array


def channels_last(image: Any) -> Any:
    """Turn tensors (C, H, W) or (B, C, H, W), alone or in a list, to arrays (H, W, C) or (B, H, W, C).

    diffusers takes tensors in torch's layout and arrays in NumPy's.
    """
    if isinstance(image, list | tuple):
        return [channels_last(item) for item in image]
    if not is_tensor(image):
        return image
    return np.moveaxis(to_array(image), -3, -1) if image.ndim > 2 else to_array(image)
