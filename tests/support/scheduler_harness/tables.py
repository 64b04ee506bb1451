"""Tables of cases in one test: all cases are checked, and all that fail are named."""

import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pytest

__all__ = ["check_each"]

T = TypeVar("T")

LINES = 12
"""Lines of each failure's message that are shown."""


def check_each(items: Iterable[T], check: Callable[[T], None], describe: Callable[[T], str] = str) -> None:
    """Check every item; fail once, with the number, description and error of each item that failed.

    Args:
        items: the table, with one row at least.
        check: raises where an item is wrong.
        describe: an item in words.
    """
    count, failures = 0, []
    for number, item in enumerate(items):
        count += 1
        try:
            check(item)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - every failure of every row is reported
            failures.append(f"{number:03}: {describe(item)}\n{_brief(error)}")
    assert count, "the table is empty: nothing was checked"
    if failures:
        pytest.fail(f"{len(failures)} of {count} failed\n\n" + "\n\n".join(failures), pytrace=False)


def _brief(error: BaseException) -> str:
    """The error with the place that raised it, shortened."""
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    text = f"{Path(place.filename).name}:{place.lineno}: {type(error).__name__}: {error}".splitlines()
    return "\n".join(f"    {line[:400]}" for line in text[:LINES])
