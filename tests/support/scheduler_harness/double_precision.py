"""diffusers in float64: the same float32 schedule, everything after it without rounding to speak of."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


def to_double(scheduler: Any) -> None:
    """Widen what a planned scheduler computes coefficients from; the timesteps stay as they are."""
    for name, value in vars(scheduler).items():
        if name != "timesteps" and isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            setattr(scheduler, name, value.double())


class DoublePrecision(TorchFunctionMode):
    """Within it, float64 tensors stay float64 where diffusers casts to float32, and noise is float32 noise widened.

    Where sigma starts in the thousands, float32 loses three digits in a step, in both libraries but not the same
    ones. In float64 the formulas can be compared to seven digits there too.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randn:
            return func(*args, **{**(kwargs or {}), "dtype": torch.float32}).double()
        if (func is torch.Tensor.float or func is torch.Tensor.to) and args[0].dtype == torch.float64:
            to_integer = any(argument is torch.long for argument in args[1:])
            return func(*args, **(kwargs or {})) if to_integer else args[0]
        return func(*args, **kwargs) if kwargs else func(*args)
