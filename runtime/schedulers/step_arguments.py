"""The arguments that every `step` of diffusers takes and none of ours needs: `return_dict`, torch's generators."""

import functools
from collections.abc import Callable
from typing import Any

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import as_generators

__all__ = ["check_device", "takes_diffusers_arguments"]


def takes_diffusers_arguments(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a `step`: `return_dict=False` returns a plain tuple, `generator` is any that `as_generators` takes.

    The tuple leaves out the fields that are None, as diffusers does.
    """

    @functools.wraps(step)
    def wrapped(self: Any, *arguments: Any, return_dict: bool = True, **options: Any) -> Any:
        for value in arguments:
            if type(value).__module__ == "torch":
                raise InputError(
                    f"{type(self).__name__}.step: got torch.{type(value).__name__}, expected NumPy arrays; pass "
                    "tensor.numpy()"
                )
        if arguments and not hasattr(arguments[0], "shape"):
            raise InputError(f"{type(self).__name__}.step: got {type(arguments[0]).__name__}, expected a NumPy array")
        if options.get("generator") is not None:
            options["generator"] = as_generators(options["generator"])
        result = step(self, *arguments, **options)
        return result if return_dict else tuple(value for value in result if value is not None)

    return wrapped


def check_device(owner: str, device: object) -> None:
    """Refuse a device other than the CPU, where NumPy's arrays are.

    Args:
        owner: The scheduler's class name, for the message.
        device: The argument of `set_timesteps`: None, a name, or a `torch.device`.

    Raises:
        InputError: Another device.
    """
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise InputError(
            f"{owner}.set_timesteps: device is {str(device)!r}, expected 'cpu', because schedulers compute in NumPy. "
            "Leave it out."
        )
