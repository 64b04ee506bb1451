"""Turns failures of arithmetic into errors that name the options: no option can end a run with a bare exception."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from diffoundry.runtime.errors import ConfigError, DiffoundryError, InputError

__all__ = ["GUARDED", "guarded"]

GUARDED = (
    "set_timesteps", "step", "step_pred", "step_correct", "batch_step_no_noise", "scale_model_input", "add_noise",
    "_set_up",
)  # fmt: skip
"""Methods that compute with options, timesteps and noise levels."""

_OF_ARRAYS = frozenset(GUARDED) - {"set_timesteps", "_set_up"}
"""Methods that compute with the arrays of a call."""

_FAILURES = (ArithmeticError, ValueError, IndexError, RecursionError)


def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of a scheduler that raises `ConfigError` where its arithmetic fails.

    Division by zero, a logarithm or root of a negative number, an overflow and a place outside of the schedule mean
    that the options, or the arguments, make no schedule.
    """

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if method.__name__ in _OF_ARRAYS:
            _refuse_tensors(f"{type(self).__name__}.{method.__name__}", (*args, *kwargs.values()))
        try:
            return method(self, *args, **kwargs)
        except DiffoundryError:
            raise
        except _FAILURES as error:
            name = "" if method.__name__ == "_set_up" else f".{method.__name__}"
            raise ConfigError(
                f"{type(self).__name__}{name}: cannot compute with {_describe(self.config)} ({error}). Correct the "
                f"options, or the arguments of the call."
            ) from error

    return call


def _refuse_tensors(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        if type(value).__module__ == "torch" and type(value).__name__ == "Tensor":
            raise InputError(f"{name}: got torch.Tensor, expected NumPy arrays; pass tensor.numpy()")


def _describe(config: Any) -> str:
    """List the options that were given."""
    defaults = {*config.get("_use_default_values", ()), "_class_name", "_diffusers_version", "_use_default_values"}
    given = [f"{name} = {str(value)[:40]}" for name, value in config.items() if name not in defaults]
    return f"the options {', '.join(given)}" if given else "its default options"
