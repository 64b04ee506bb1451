"""Linear forms: arrays of unknown values, of which only the coefficients are computed.

A `LinearForm` behaves like a NumPy array for what a scheduler's `step` does to its samples: addition, subtraction,
negation, multiplication with and division by numbers. Every other operation raises `NotAffineError`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from diffoundry.runtime.errors import ConfigError

__all__ = ["LinearForm", "NotAffineError", "Symbol"]


class NotAffineError(ConfigError):
    """A scheduler computes something that is not affine in sample, outputs and noises.

    Attributes:
        operation: NumPy's name of the operation, or None.
    """

    def __init__(self, message: str, operation: str | None = None) -> None:
        super().__init__(message)
        self.operation = operation


@dataclass(frozen=True, order=True)
class Symbol:
    """One unknown: the sample before call i, the model's output of call i, or the i-th noise drawn."""

    kind: str
    index: int


class LinearForm:
    """A sum over symbols of coefficient times symbol, in float64.

    Attributes:
        terms: coefficient of each symbol.
        shape: of the array that it replaces, one image with one pixel.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, terms: Mapping[Symbol, float], shape: tuple[int, ...] = (1, 1, 1, 1)) -> None:
        self.terms = dict(terms)
        self.shape = shape

    @classmethod
    def of(cls, kind: str, index: int, channels: int = 1) -> "LinearForm":
        """Make the form of one symbol."""
        return cls({Symbol(kind, index): 1.0}, (1, channels, 1, 1))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def _with(self, terms: Mapping[Symbol, float]) -> "LinearForm":
        return LinearForm(terms, self.shape)

    def __add__(self, other: "LinearForm | float") -> "LinearForm":
        if isinstance(other, LinearForm):
            terms = dict(self.terms)
            for symbol, coefficient in other.terms.items():
                terms[symbol] = terms.get(symbol, 0.0) + coefficient
            return self._with(terms)
        if _number(other, "add") == 0.0:  # sums start at 0
            return self
        raise NotAffineError(f"adding the constant {other!r} to the sample")

    __radd__ = __add__

    def __sub__(self, other: "LinearForm | float") -> "LinearForm":
        return self + -other

    def __rsub__(self, other: float) -> "LinearForm":
        return -self + other

    def __neg__(self) -> "LinearForm":
        return self * -1.0

    def __mul__(self, factor: "LinearForm | float") -> "LinearForm":
        if isinstance(factor, LinearForm):
            raise NotAffineError("multiplying two of sample, model output and noise")
        number = _number(factor, "multiply")
        return self._with({symbol: coefficient * number for symbol, coefficient in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: "LinearForm | float") -> "LinearForm":
        if isinstance(divisor, LinearForm):
            raise NotAffineError("dividing by the sample, a model output or a noise")
        number = _number(divisor, "divide")
        return self._with({symbol: coefficient / number for symbol, coefficient in self.terms.items()})

    def __getitem__(self, index: object) -> NoReturn:
        raise _refused("getitem")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **_: Any) -> "LinearForm":
        """Take part in the arithmetic of NumPy's scalars, which ask here for `number * form`."""
        operator = _OPERATORS.get(ufunc) if method == "__call__" else None
        if operator is None:
            raise _refused(ufunc.__name__)
        return operator(*inputs)

    def __array_function__(self, function: Callable[..., Any], *_: Any) -> NoReturn:
        """Refuse NumPy's functions, such as `clip`."""
        raise _refused(function.__name__)

    def __repr__(self) -> str:
        return " + ".join(f"{c:g} {s.kind}[{s.index}]" for s, c in sorted(self.terms.items())) or "0"

    def astype(self, dtype: Any, copy: bool = True) -> "LinearForm":  # noqa: ARG002 - ndarray's signature
        """Return the form itself: its coefficients are float64, whatever the array would be."""
        return self

    def is_finite(self) -> bool:
        """Return True where every coefficient is a finite number."""
        return all(math.isfinite(coefficient) for coefficient in self.terms.values())


_OPERATORS: dict[np.ufunc, Callable[..., LinearForm]] = {
    np.add: lambda a, b: b + _plain(a) if isinstance(b, LinearForm) else a + _plain(b),
    np.subtract: lambda a, b: -b + _plain(a) if isinstance(b, LinearForm) else a - _plain(b),
    np.multiply: lambda a, b: b * _plain(a) if isinstance(b, LinearForm) else a * _plain(b),
    np.divide: lambda a, b: a / _plain(b),
}


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python float, so that its operators do not ask the form again."""
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any, operation: str) -> float:
    if np.ndim(value) > 0:
        raise _refused(operation)
    return float(value)


def _refused(operation: str) -> NotAffineError:
    return NotAffineError(f"the operation '{operation}'", operation)
