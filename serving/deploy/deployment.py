"""The folder of a deployment: written beside its place, and renamed when it is complete."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffoundry
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import InputError

__all__ = ["MARKER", "check_output", "copy_bundle", "deployment_name", "open_deployment"]

MARKER = ".diffoundry-deploy.json"
"""File of every deployment. Only a folder that has it is replaced."""

_FOLDER_MODE = 0o755


def deployment_name(bundle: Bundle) -> str:
    """Return the name of the model: that of its folder, without ".bundle".

    Raises:
        InputError: A server cannot use it.
    """
    name = bundle.root.resolve().name.removesuffix(".bundle")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise InputError(
            f"DIR {bundle.root}: the name of the folder becomes that of a model, so expected only letters, digits, "
            f"'.', '-' and '_' in it; rename the folder"
        )
    return name


def check_output(output: Path, bundle: Bundle, *, overwrite: bool) -> None:
    """Refuse a place that exists already, unless it is a deployment that may be replaced.

    Raises:
        InputError: It exists, or lies in the bundle.
    """
    if output.resolve().is_relative_to(bundle.root.resolve()):
        raise InputError(f"--output {output}: lies in the bundle {bundle.root}; choose another folder")
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise InputError(f"--output {output}: exists already; choose another folder, or pass --overwrite to replace it")
    if output.is_symlink() or not (output / MARKER).is_file():
        raise InputError(
            f"--output {output}: exists and was not made by 'diffoundry deploy', so it is not overwritten; choose "
            f"another folder"
        )


@contextmanager
def open_deployment(output: Path, bundle: Bundle, kind: str, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder beside the output to write into, and rename it at the end. An error leaves nothing behind.

    Args:
        output: Place of the deployment.
        bundle: The bundle.
        kind: Server that it is for.
        overwrite: True to replace an earlier deployment.

    Raises:
        InputError: As `check_output`, or the folder cannot be written.
    """
    check_output(output, bundle, overwrite=overwrite)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{output.name}.", suffix=".partial", dir=output.parent))
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        folder.chmod(_FOLDER_MODE)
        yield folder
        facts = {"to": kind, "bundle": bundle.root.resolve().name, "diffoundry": diffoundry.__version__}
        write_text(folder / MARKER, json.dumps(facts, indent=2) + "\n")
        check_output(output, bundle, overwrite=overwrite)
        _put_in_place(folder, output)
    except OSError as error:
        reason = error.strerror or error  # errors of copytree have no reason of their own
        raise InputError(
            f"--output {output}: cannot be written ({reason}); free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_bundle(bundle: Bundle, target: Path) -> None:
    """Copy all files of a bundle but hidden ones; links of the hub's cache become files."""
    shutil.copytree(bundle.root, target, ignore=shutil.ignore_patterns(".*"))


def _put_in_place(folder: Path, output: Path) -> None:
    if not os.path.lexists(output):
        folder.rename(output)
        return
    earlier = folder.with_suffix(".replaced")
    output.rename(earlier)
    try:
        folder.rename(output)
    except OSError:
        earlier.rename(output)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
