"""Shows the current step of a long command on standard error."""

import logging
import time
from types import TracebackType
from typing import Self

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from diffoundry.runtime.cli.console import err, is_quiet

__all__ = ["StatusLine"]

logger = logging.getLogger(__name__)

_PAUSE = 10.0
"""Seconds between two lines of a log that nobody watches."""


class StatusLine:
    """The current step: one line with a spinner on a terminal, else lines of a log, at most one in 10 seconds.

    With --quiet nothing is shown.
    """

    def __init__(self) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        self._live = err.is_terminal and not is_quiet()
        self._progress = Progress(*columns, console=err, transient=True, disable=not self._live)
        self._task = self._progress.add_task("starting", total=None)
        self._last = -_PAUSE

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, text: str) -> None:
        """Show a step. A log leaves it out when the last line is younger than 10 seconds."""
        logger.debug("%s", text)
        self._progress.update(self._task, description=text)
        if not self._live and time.monotonic() - self._last >= _PAUSE:
            self._print(text)

    def keep(self, text: str) -> None:
        """Print a line that stays, such as a finished step."""
        logger.debug("%s", text)
        self._progress.update(self._task, description=text)
        self._print(text)

    def _print(self, text: str) -> None:
        if not is_quiet():
            err.print(text, soft_wrap=True)
            self._last = time.monotonic()
