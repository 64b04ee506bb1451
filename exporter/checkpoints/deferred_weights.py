"""Builds modules whose large weights take no memory: each is read, or drawn, when it is asked for."""

import ctypes
import math
import mmap
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from unittest import mock

import torch
from torch.nn import init
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffoundry.runtime.engines.memory import give_back

__all__ = ["DeferredWeights", "defer_for", "deferred_weights"]

_LARGE = 1 << 14
"""Elements. Smaller tensors are read and drawn at once: together they are a thousandth of a network."""

_NO_ACCESS, _NO_RESERVE = 0, 0x4000 if sys.platform == "linux" else 0
"""From linux/mman.h; `mmap` has the second since Python 3.13."""

_ATTRIBUTE = "diffoundry_deferred_weights"

_TRUNCATED = "_no_grad_trunc_normal_"
_draw_truncated: Callable[..., torch.Tensor] = getattr(init, _TRUNCATED, init.trunc_normal_)
"""Function of torch behind `trunc_normal_`, which other modules have imported by name."""

_EMPTY = torch.ops.aten.empty.memory_format
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)  # noqa: SLF001  # an operator's name


Step = Callable[[torch.Tensor], Any]
"""Changes a real tensor in place."""


@dataclass(eq=False, slots=True)
class _Deferred:
    """A tensor without memory, and the steps that make its numbers.

    Attributes:
        tensor: Contiguous, at addresses that cannot be read.
        seed: Seed of its random numbers.
        steps: In their order; each takes a real tensor of this shape.
    """

    tensor: torch.Tensor
    seed: int
    steps: list[Step] = field(default_factory=list)

    def compute(self, count: int | None = None) -> torch.Tensor:
        """Make a real tensor by the first `count` steps, or by all."""
        made = torch.empty(self.tensor.shape, dtype=self.tensor.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for step in self.steps[:count]:
                step(made)
        return made


_Mode: Any = TorchDispatchMode  # torch does not say its types


class DeferredWeights(_Mode):  # type: ignore[misc]  # as above
    """Within this context, a module is built or read, and its large floating weights take no memory.

    Torch's operators are recorded that fill a new weight with numbers, and that convert one to another type. A weight
    lies at addresses of its own, which cannot be read. `read` repeats the operators on memory, with a seed for each
    weight, so that any weight can be made at any time and always is the same. An operator that needs the numbers of a
    weight at once, as a transposed copy does, gets them: this weight takes memory from then on.

    fp32 weights of a file are not deferred: they stay in the mapped file, and are given back after each reading.

    Args:
        seed: Text that every seed is derived from. None does not defer new weights, only conversions.
    """

    def __init__(self, seed: str | None = None) -> None:
        super().__init__()
        self._seed = seed
        self._count = 0
        self._deferred: dict[int, _Deferred] = {}

    def __enter__(self) -> Self:
        """Enter the context."""
        self._truncated = mock.patch.object(init, _TRUNCATED, self._draw_truncated)
        if hasattr(init, _TRUNCATED):
            self._truncated.start()
        entered: Self = super().__enter__()
        return entered

    def __exit__(self, *error: object) -> None:
        """Leave the context."""
        super().__exit__(*error)
        if hasattr(init, _TRUNCATED):
            self._truncated.stop()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return these weights themselves: a copy of their module that keeps its weights has the same."""
        return self

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record an operator, or call it."""
        kwargs = kwargs or {}
        if func is _EMPTY and self._seed is not None and _is_large_weight(args[0], kwargs):
            return self._new(args[0], kwargs.get("dtype") or torch.get_default_dtype())
        if func in _COPIES and (copied := self._copy(args[0], kwargs)) is not None:
            return copied
        held = [leaf for leaf in tree_leaves((args, kwargs)) if self.defers(leaf)]
        if not held or _only_views(func):
            return func(*args, **kwargs)
        first = self._find(held[0])
        if first is not None and held[0] is args[0] and len(held) == 1 and _writes_first(func):
            first.steps.append(lambda real: func(_view_like(real, held[0]), *args[1:], **kwargs))
            return args[0]
        for tensor in held:
            self._fill(self._find(tensor))
        return func(*args, **kwargs)

    def defers(self, tensor: Any) -> bool:
        """Return True for a weight without memory, or a view of one."""
        return isinstance(tensor, torch.Tensor) and self._find(tensor) is not None

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make a tensor with the numbers of a weight, in memory of its own. A mapped file keeps none of its pages.

        Call it outside of the context.
        """
        found = self._find(tensor)
        if found is not None:
            return _view_like(found.compute(), tensor).contiguous()
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        give_back(tensor.data_ptr(), tensor.nbytes)
        return copy

    def change(self, tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return a weight of the same shape and type, `change` of the numbers of this one, without memory."""
        made = self._new(tuple(tensor.shape), tensor.dtype)
        self._add_copy(made, tensor.detach(), change)
        return made

    def join(self, other: "DeferredWeights") -> None:
        """Also read the weights of another module, whose layers this one has got."""
        self._deferred |= other._deferred  # noqa: SLF001  # of this class

    def fill(self) -> None:
        """Give every weight its memory."""
        for one in list(self._deferred.values()):
            self._fill(one)

    def _draw_truncated(self, tensor: torch.Tensor, *options: Any, **named: Any) -> torch.Tensor:
        """Record torch's truncated normal distribution as one step: it draws again where a number is too large."""
        found = self._find(tensor)
        if found is None:
            return _draw_truncated(tensor, *options, **named)
        view = tensor.detach()
        found.steps.append(lambda real: _draw_truncated(_view_like(real, view), *options, **named))
        return tensor

    def _new(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        made = _without_memory(shape, dtype)
        self._count += 1
        seed = zlib.crc32(f"{self._seed}/{self._count}".encode())
        self._deferred[made.data_ptr()] = _Deferred(made, seed)
        return made

    def _find(self, tensor: torch.Tensor) -> _Deferred | None:
        if not self._deferred or tensor.device.type != "cpu" or tensor.layout != torch.strided:
            return None
        return self._deferred.get(tensor.untyped_storage().data_ptr())

    def _copy(self, source: torch.Tensor, options: dict[str, Any]) -> torch.Tensor | None:
        """Defer a copy or a conversion; None where it is done at once."""
        device, dtype = torch.device(options.get("device") or source.device), options.get("dtype") or source.dtype
        deferred = self.defers(source)
        if deferred and device.type == "meta":
            return torch.empty_strided(source.shape, source.stride(), dtype=dtype, device="meta")
        converted = source.dtype != dtype and source.is_floating_point() and dtype.is_floating_point
        if device.type != "cpu" or source.device != device or source.numel() < _LARGE or not (deferred or converted):
            return None
        made = self._new(tuple(source.shape), dtype)
        self._add_copy(made, source)
        return made

    def _add_copy(
        self, made: torch.Tensor, source: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        """Let the numbers of `made` be those that `source` has now, changed."""
        found = self._find(source)
        count = 0 if found is None else len(found.steps)

        def step(real: torch.Tensor) -> None:
            numbers = source if found is None else _view_like(found.compute(count), source)
            real.copy_(numbers if change is None else change(numbers))
            if found is None:
                give_back(source.data_ptr(), source.nbytes)

        self._deferred[made.data_ptr()].steps.append(step)

    def _fill(self, one: _Deferred | None) -> None:
        """Give a weight its memory, at its own addresses. Copies of it have steps of their own."""
        if one is not None and self._deferred.pop(one.tensor.data_ptr(), None) is not None:
            numbers = one.compute()
            _allow(one.tensor)
            one.tensor.copy_(numbers)


def deferred_weights(module: torch.nn.Module) -> DeferredWeights:
    """Return the deferred weights of a module; none unless it was loaded so."""
    found: DeferredWeights = vars(module).setdefault(_ATTRIBUTE, DeferredWeights())
    return found


def defer_for(module: torch.nn.Module, deferred: DeferredWeights) -> torch.nn.Module:
    """Note the deferred weights of a module, for `deferred_weights`, and return it."""
    vars(module)[_ATTRIBUTE] = deferred
    return module


def _without_memory(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor at addresses that cannot be read; where a system has no such, memory that is not touched."""
    count = math.prod(shape)
    if sys.platform == "win32" or not count:
        return torch.empty(tuple(shape), dtype=dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    addresses = mmap.mmap(-1, count * dtype.itemsize, flags=flags, prot=_NO_ACCESS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the buffer cannot be written
        return torch.frombuffer(addresses, dtype=dtype, count=count).view(tuple(shape))


def _allow(tensor: torch.Tensor) -> None:
    """Let the addresses of `_without_memory` be read and written."""
    if sys.platform != "win32":
        allowed = ctypes.CDLL(None, use_errno=True).mprotect(
            ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(tensor.nbytes), mmap.PROT_READ | mmap.PROT_WRITE
        )
        assert allowed == 0, f"mprotect: {os.strerror(ctypes.get_errno())}"


def _view_like(real: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return the view of a real tensor that `tensor` is of the one without memory."""
    return real.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _is_large_weight(shape: Sequence[int], options: dict[str, Any]) -> bool:
    """Return True for what a layer allocates for a large weight, by the arguments of `empty`."""
    dtype = options.get("dtype") or torch.get_default_dtype()
    on_cpu = torch.device(options.get("device") or "cpu").type == "cpu"
    return on_cpu and dtype.is_floating_point and math.prod(shape) >= _LARGE


def _only_views(func: Any) -> bool:
    """Return True for an operator that reads no numbers: all its results are views of its arguments."""
    results = func._schema.returns  # noqa: SLF001  # torch's own
    return bool(results) and all(one.alias_info is not None and not one.alias_info.is_write for one in results)


def _writes_first(func: Any) -> bool:
    """Return True for an operator that writes its first argument and nothing else, and returns it."""
    schema = func._schema  # noqa: SLF001  # torch's own
    written = [one.alias_info is not None and one.alias_info.is_write for one in schema.arguments]
    return written[:1] == [True] and not any(written[1:]) and len(schema.returns) == 1
