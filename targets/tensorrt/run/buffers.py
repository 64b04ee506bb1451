"""Memory for all inputs, or all outputs, of a call: side by side on host and GPU, so that one copy moves them."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.engines.protocol import Array
from diffoundry.targets.tensorrt.cuda import Cuda

__all__ = ["Arena", "Slot"]

_ALIGNMENT = 256
"""Bytes. What TensorRT wants of the address of a tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Place of a tensor in an arena: bytes from its start, shape and dtype."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


class Arena:
    """A piece of page-locked host memory and one of the same size on the GPU. It grows, and never shrinks.

    Attributes:
        slots: Tensor name to where it lies, since the last `arrange`.
        size: Bytes in use.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.slots: dict[str, Slot] = {}
        self.size = 0
        self._cuda = cuda
        self._capacity = 0
        self.host = 0
        self.device = 0

    def arrange(self, tensors: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        """Give each tensor (name to shape and dtype) its place; addresses may change.

        Raises:
            EngineError: There is not so much memory.
        """
        self.slots, offset = {}, 0
        for name, (shape, dtype) in tensors.items():
            self.slots[name] = Slot(offset=offset, shape=shape, dtype=dtype)
            # A tensor without elements has an address as well.
            size = max(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize, 1)
            offset += -(-size // _ALIGNMENT) * _ALIGNMENT
        self.size = offset
        if offset > self._capacity:
            self.free()
            self.host = int(self._cuda.call("cudaMallocHost", offset))
            self.device = int(self._cuda.call("cudaMalloc", offset))
            self._capacity = offset

    def address(self, name: str) -> int:
        """Return the address of a tensor on the GPU."""
        return self.device + self.slots[name].offset

    def view(self, name: str) -> Array:
        """A tensor in host memory, not a copy of it."""
        slot = self.slots[name]
        count = int(np.prod(slot.shape, dtype=np.int64))
        size = count * np.dtype(slot.dtype).itemsize
        memory = memoryview((ctypes.c_char * size).from_address(self.host + slot.offset)).cast("B")
        tensor: Array = np.frombuffer(memory, dtype=np.dtype(slot.dtype), count=count).reshape(slot.shape)
        return tensor

    def free(self) -> None:
        """Give the memory back."""
        device, host, self.device, self.host, self._capacity = self.device, self.host, 0, 0, 0
        if device:
            self._cuda.call("cudaFree", device)
        if host:
            self._cuda.call("cudaFreeHost", host)
