"""torch with correctly rounded elementary functions, to compare schedules exactly."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FUNCTIONS = {
    torch.sin: torch.sin,
    torch.Tensor.atan: torch.atan,
    torch.sqrt: torch.sqrt,
    torch.Tensor.sqrt: torch.sqrt,
    torch.exp: torch.exp,
    torch.Tensor.exp: torch.exp,
    torch.log: torch.log,
    torch.Tensor.log: torch.log,
    torch.sigmoid: torch.sigmoid,
    torch.Tensor.sigmoid: torch.sigmoid,
}
_POWERS = {torch.pow, torch.Tensor.pow, torch.Tensor.__pow__}
_ROUNDED = {*_FUNCTIONS, torch.atan2, *_POWERS}


class CorrectRounding(TorchFunctionMode):
    """Within it, elementary functions and powers of float32 are computed in float64 and rounded once.

    torch takes these functions from the CPU maker's vector library: on one machine `torch.sqrt` of the 1000
    training variances differs from the correctly rounded root in 156 last bits, on another in none. With the
    rounding fixed, diffusers' schedules are the same on every machine and can be compared bit for bit.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ROUNDED and isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float32:
            if func in _FUNCTIONS:
                return _FUNCTIONS[func](args[0].double()).float()
            if func is torch.atan2:
                return torch.atan2(args[0].double(), args[1].double()).float()
            if not isinstance(args[1], torch.Tensor):
                return torch.pow(args[0].double(), args[1]).float()
        return func(*args, **kwargs) if kwargs else func(*args)
