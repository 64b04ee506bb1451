"""Equal parts for unequal checkpoints: tests trace a network once for all that have it with the same weights."""

from collections.abc import Callable
from functools import wraps
from typing import Any

__all__ = ["same_weights"]


def same_weights(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make networks with weights that do not depend on those made before, and leave torch's generator as it was."""

    @wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make(*args, **options)

    return made
