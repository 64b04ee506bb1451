"""Entry point of `diffoundry`: ends in one sentence however early it is interrupted and whatever is not installed."""

import os
import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 an error or a failed gate, 2 wrong usage, 130 interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)  # an import that is interrupted may hide the exception or print it
    try:
        from diffoundry.runtime.cli.group import run
    except ModuleNotFoundError as error:
        from diffoundry.runtime.errors import MissingExtraError

        sys.exit(f"error: {MissingExtraError('the command line', error.name or 'click', 'cli')}")
    run()


def _stop(*_: object) -> None:
    """End at once: nothing is written yet that had to be tidied up."""
    os.write(2, b"interrupted\n")
    os._exit(130)
