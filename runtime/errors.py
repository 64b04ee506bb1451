"""Every error that diffoundry raises for a user: one base class, one sentence form."""

from collections.abc import Sequence
from typing import Any

from diffoundry.runtime.install_hint import install_command
from diffoundry.runtime.suggest import did_you_mean

__all__ = [
    "BundleError",
    "CancelledError",
    "CheckpointError",
    "ConfigError",
    "DiffoundryError",
    "DispatcherClosedError",
    "EngineError",
    "InputError",
    "MissingExtraError",
    "QueueFullError",
    "TimeLimitError",
    "UnknownArgumentError",
]


class DiffoundryError(Exception):
    """Base of all errors meant for the user; the command line prints it without a traceback.

    The message says: subject, got, expected, what to do. Other processes get it with its message and attributes.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what `pickle` needs: classes take other arguments than the message."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[DiffoundryError], args: tuple[Any, ...], attributes: dict[str, Any]) -> DiffoundryError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InputError(DiffoundryError, ValueError):
    """An argument of a call or a command is wrong."""


class UnknownArgumentError(InputError):
    """A pipeline has no argument of this name.

    Attributes:
        name: Name of the argument.
        known: Names that the pipeline takes, in alphabetical order.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name, known
        question = did_you_mean(name, known)
        expected = f"one of {', '.join(known)}"
        link = f".{question} Expected" if question else ", expected"
        super().__init__(f"{name}: no such argument{link} {expected}")


class ConfigError(DiffoundryError, ValueError):
    """A config file or a scheduler config holds something that is not honoured."""


class CheckpointError(DiffoundryError):
    """A checkpoint cannot be found, read or trusted."""


class BundleError(DiffoundryError):
    """A bundle is incomplete, changed, hostile or of another format version."""


class CancelledError(DiffoundryError):
    """A run was cancelled, so that it has no result."""


class TimeLimitError(DiffoundryError, TimeoutError):
    """A request has not ended in its time limit."""


class DispatcherClosedError(DiffoundryError):
    """A dispatcher takes no more requests."""


class QueueFullError(DiffoundryError):
    """Too many requests wait.

    Attributes:
        queued: Number of requests that wait.
        expected_wait: Seconds until a request would start, at least 1.
    """

    def __init__(self, queued: int, expected_wait: float) -> None:
        self.queued, self.expected_wait = queued, expected_wait
        super().__init__(
            f"the queue is full: {queued} waiting, and it takes no more; try again in about {expected_wait:.0f} seconds"
        )


class EngineError(DiffoundryError):
    """An engine cannot be opened or run on this machine."""


class MissingExtraError(DiffoundryError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, module: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the Python package '{module}', which is not installed. "
            f"Install it with: {install_command(extra)}"
        )
