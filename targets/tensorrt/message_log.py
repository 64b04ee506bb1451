"""Keeps what TensorRT logs, and passes its progress on."""

from collections.abc import Callable
from typing import Any

from diffoundry.targets.tensorrt.build.layer_report import interesting

__all__ = ["MessageLog", "make_logger", "make_monitor"]

_ERROR, _WARNING = 1, 2
"""Of `ILogger.Severity`, whose lower numbers are worse."""


class MessageLog:
    """The messages of one process: TensorRT keeps the first logger of a process.

    Attributes:
        logger: The `ILogger` that feeds it.
        details: Messages about the engine's structure; the others of their severity are dropped, which for a
            large graph are millions.
    """

    def __init__(self) -> None:
        self.logger: Any = None
        self.details: list[str] = []
        self._kept: list[tuple[int, str]] = []

    def add(self, severity: int, message: str) -> None:
        """Take a message."""
        if severity <= _WARNING:
            self._kept.append((severity, message))
        elif interesting(message):
            self.details.append(message)

    def errors(self) -> list[str]:
        """Errors in their order."""
        return [message for severity, message in self._kept if severity <= _ERROR]

    def take_errors(self) -> list[str]:
        """Errors since they were last taken; everything that was kept is dropped."""
        errors = self.errors()
        self._kept.clear()
        self.details.clear()
        return errors

    def warnings(self) -> tuple[str, ...]:
        """Warnings, each once."""
        return tuple(dict.fromkeys(message.strip() for severity, message in self._kept if severity == _WARNING))


def make_logger(trt: Any, log: MessageLog) -> Any:
    """An `ILogger` of the module `trt` that fills `log`."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the module is only known at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(int(severity), message)

    return Logger()


def make_monitor(trt: Any, progress: Callable[[str, int, int], None], cancelled: Callable[[], bool]) -> Any:
    """An `IProgressMonitor` of the module `trt`.

    Args:
        trt: The module.
        progress: Called with the name of a phase, its step and its number of steps, as each step ends.
        cancelled: Asked after each step; the build stops when it says yes.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is only known at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, _parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self._steps.get(phase_name, 0))
            return not cancelled()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
