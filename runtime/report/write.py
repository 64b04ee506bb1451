"""Writes a report atomically."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.errors import InputError, MissingExtraError
from diffoundry.runtime.report.sections import Section

__all__ = ["require_report", "write_report"]

_LIBRARIES = ("jinja2", "matplotlib")


def require_report() -> None:
    """Check for the libraries of the extra `report`, so that a command can report their absence before its work.

    They are not imported: the next measurement must not have them in its memory.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    for library in _LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError("an HTML report", library, "report")


def write_report(path: str | os.PathLike[str], title: str, sections: Sequence[Section], *, text: str = "") -> None:
    """Write one HTML file that needs no other file and no network.

    Args:
        path: File to write; an existing file is replaced when the new one is complete.
        title: Heading of the page.
        sections: In reading order.
        text: Plain text under the heading; an empty line begins a new paragraph.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
        InputError: A table row has too many or too few cells, or the file cannot be written.
    """
    require_report()
    page: str = resolve("diffoundry.runtime.report.page:render")(title, sections, text)
    target = Path(path)
    beside = target.with_name(target.name + ".new")
    try:
        beside.write_text(page, encoding="utf-8")
        os.replace(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(f"report {target}: cannot be written ({error.strerror}); choose another folder") from error
