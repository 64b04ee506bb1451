"""Writes a report atomically."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.file_checks import enclosing_bundle
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.errors import BundleError, InputError, MissingExtraError
from diffoundry.runtime.report.sections import Section

__all__ = ["check_report_path", "require_report", "write_report"]

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


def check_report_path(path: Path) -> None:
    """Refuse a path that no report can be written to, before the work of minutes that it reports.

    Raises:
        InputError: It is a folder, or its folder does not exist, cannot be written, or is part of a bundle.
    """
    if path.is_dir():
        raise InputError(f"--html {path}: is a folder, expected a file such as report.html")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--html {path}: its folder {path.parent} does not exist; make it, or choose another")
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"--html {path}: its folder {path.parent} cannot be written; choose another")
    found = enclosing_bundle(path.parent)
    if found is not None:
        raise InputError(f"--html {path}: got a file of the bundle {found}, expected another folder; choose one")


def write_report(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    *,
    text: str = "",
    passed: bool | None = None,
) -> None:
    """Write one HTML file that needs no other file and no network.

    Args:
        path: File to write; an existing file is replaced when the new one is complete.
        title: Heading of the page.
        sections: In reading order.
        text: Plain text under the heading; an empty line begins a new paragraph.
        passed: True shows this text as a passed verdict, in green; False as a failure, in red; None as plain text.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
        InputError: A table row has too many or too few cells, or the file cannot be written.
    """
    require_report()
    page: str = resolve("diffoundry.runtime.report.page:render")(title, sections, text, passed=passed)
    target = Path(path)
    if not target.absolute().parent.is_dir():
        raise InputError(f"report {target}: cannot be written (No such file or directory); choose another folder")
    try:
        write_text(target, page)
    except BundleError as error:
        reason = getattr(error.__cause__, "strerror", error)
        raise InputError(f"report {target}: cannot be written ({reason}); choose another folder") from error
