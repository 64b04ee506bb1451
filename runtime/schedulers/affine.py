"""Linear forms: what stands in for arrays while a scheduler's own `step` is read off as coefficients.

A scheduler's `step` is written for anything that can be added, subtracted, negated, and multiplied or divided by
a Python float. NumPy arrays can; a `LinearForm` can too, and keeps the coefficients. What is not affine in
(sample, model outputs, noises) says so through `require_array`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from diffoundry.runtime.errors import ConfigError

__all__ = ["LinearForm", "NotAffineError", "Sample", "Symbol", "require_array"]

Sample: TypeAlias = Any
"""A NumPy array, or a `LinearForm` while a scheduler is lowered."""


class NotAffineError(ConfigError):
    """A scheduler or an option computes something that is not affine in sample, outputs and noises."""


@dataclass(frozen=True, order=True)
class Symbol:
    """One unknown: the sample before call i, the model's output of call i, or the i-th noise drawn."""

    kind: str
    index: int


class LinearForm:
    """sum over symbols of coefficient * symbol, in float64."""

    # NumPy's scalars and arrays then leave `scalar * form` to __rmul__ below.
    __array_ufunc__ = None
    dtype = np.dtype(np.float32)
    shape: tuple[int, ...] = ()

    def __init__(self, terms: Mapping[Symbol, float]) -> None:
        self.terms = dict(terms)

    @classmethod
    def of(cls, kind: str, index: int) -> "LinearForm":
        """The form that is one symbol."""
        return cls({Symbol(kind, index): 1.0})

    def __add__(self, other: "LinearForm | float") -> "LinearForm":
        if isinstance(other, LinearForm):
            terms = dict(self.terms)
            for symbol, coefficient in other.terms.items():
                terms[symbol] = terms.get(symbol, 0.0) + coefficient
            return LinearForm(terms)
        if float(other) == 0.0:  # sums start at 0
            return self
        raise NotAffineError(f"adding the constant {other!r} to the sample")

    __radd__ = __add__

    def __sub__(self, other: "LinearForm | float") -> "LinearForm":
        return self + -other

    def __rsub__(self, other: float) -> "LinearForm":
        return -self + other

    def __neg__(self) -> "LinearForm":
        return self * -1.0

    def __mul__(self, factor: "float | LinearForm") -> "LinearForm":
        if isinstance(factor, LinearForm):
            raise NotAffineError("multiplying two of sample, model output and noise")
        number = float(factor)
        return LinearForm({symbol: coefficient * number for symbol, coefficient in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: "float | LinearForm") -> "LinearForm":
        if isinstance(divisor, LinearForm):
            raise NotAffineError("dividing by the sample, a model output or a noise")
        return LinearForm({symbol: coefficient / float(divisor) for symbol, coefficient in self.terms.items()})

    def __repr__(self) -> str:
        return " + ".join(f"{c:g} {s.kind}[{s.index}]" for s, c in sorted(self.terms.items())) or "0"

    def astype(self, dtype: Any, copy: bool = True) -> "LinearForm":  # noqa: ARG002 - ndarray's signature
        """The form itself: it stands for an array of any dtype."""
        return self

    def is_finite(self) -> bool:
        """Whether every coefficient is a number."""
        return all(math.isfinite(coefficient) for coefficient in self.terms.values())


def require_array(sample: Sample, option: str) -> None:
    """Refuse linear forms at the door of a computation that is not affine.

    Args:
        sample: what the computation is about to read.
        option: the config option (or step argument) that asked for it, for the message.

    Raises:
        NotAffineError: the sample is a linear form.
    """
    if isinstance(sample, LinearForm):
        raise NotAffineError(f"option '{option}'")
