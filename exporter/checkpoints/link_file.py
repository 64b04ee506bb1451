"""Puts a file at a second place without a copy, where the system can."""

import os
import shutil
from pathlib import Path

__all__ = ["link_file"]


def link_file(source: Path, target: Path) -> None:
    """Make a symbolic link; a copy where links are not allowed, as for users of Windows without developer mode."""
    try:
        target.symlink_to(os.path.abspath(source))
    except OSError:
        shutil.copyfile(source, target)
