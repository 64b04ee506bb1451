"""Entry point of `diffoundry`. Reports in one sentence that the command line's own libraries are missing."""

import sys

from diffoundry.runtime.errors import MissingExtraError

__all__ = ["main"]


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 an error or a failed gate, 2 wrong usage, 130 interrupted."""
    try:
        from diffoundry.runtime.cli.group import run
    except ModuleNotFoundError as error:
        sys.exit(f"error: {MissingExtraError('the command line', error.name or 'click', 'cli')}")
    run()
