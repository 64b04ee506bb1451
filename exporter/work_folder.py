"""The folder beside a bundle in which a command works, and the step that puts it in the bundle's place."""

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from diffoundry.exporter.exchange import exchange
from diffoundry.exporter.jobs.journal import Journal
from diffoundry.exporter.jobs.storage import is_storage_error, storage_sentence
from diffoundry.runtime.bundle.atomic_write import is_draft, sync_file, sync_folders
from diffoundry.runtime.errors import BundleError, DiffoundryError, InputError

__all__ = ["BUILD_ENDING", "BUILD_STATE", "WorkFolder", "recover_build"]

BUILD_ENDING, BUILD_STATE = ".build", ".build"
"""Names of the work folder of `build`, and of its state folder."""

_RECORD = "recipe"

_REPLACED = "replaced"
"""Name of the earlier bundle in the state folder, from the swap until it is deleted."""

_SWAP = "swap"
"""Record of the earlier bundle's identity, written right before the swap."""


class WorkFolder:
    """Holds `<output><ending>` while a command runs; `put_in_place` turns it into `<output>`.

    The earlier bundle at `<output>` stays whole until the new one is on the disk, then both change places in one step.
    Where a file system cannot do that, two renames follow each other, and `__enter__` completes them after a kill.
    The folder has a hidden state folder with the lock and the journal. Links in it are refused, never followed.

    Attributes:
        output: The bundle's folder, without links.
        folder: The folder to work in.
        journal: Record of the finished jobs.
    """

    def __init__(self, output: Path, *, ending: str, state: str, option: str, busy: str, advice: str) -> None:
        """Nothing is written yet.

        Args:
            output: The bundle's folder.
            ending: Ending of the work folder's name.
            state: Name of the state folder in it.
            option: The output in messages, as the user typed it: "--output sd15.bundle".
            busy: End of the message when another command owns the folder.
            advice: End of the message when the folder cannot be written.
        """
        self.output = Path(os.path.realpath(output))
        self.folder = self.output.with_name(self.output.name + ending)
        self._state = state
        self._option, self._busy, self._advice = option, busy, advice
        self.journal = Journal(self.folder / state)
        self._lock = FileLock(self.folder / state / "lock", timeout=0)

    def __enter__(self) -> Self:
        """Complete an interrupted swap, lock the folder, and refuse what is not of our making.

        Raises:
            InputError: Another command owns it, it holds other files, or it cannot be written.
        """
        try:
            recover_swap(self.output, self.folder, self._state)
            self._refuse_others()
            if self.output.exists() and not os.access(self.output, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.output))
            (self.folder / self._state).mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise InputError(f"{self._option}: {self._busy}") from error
        except OSError as error:
            raise InputError(f"{self._option}: cannot be written ({error.strerror}); {self._advice}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock, and put the system's refusal to write into a sentence."""
        self._lock.release()
        foreign = isinstance(error, Exception) and not isinstance(error, DiffoundryError)
        if error is not None and foreign and is_storage_error(error, self.folder):
            raise BundleError(storage_sentence(error, self._option, self.folder)) from error

    def start(self, record: Any) -> None:
        """Keep the finished jobs of an interrupted run with the same record, and delete everything otherwise.

        Args:
            record: Everything that the jobs depend on, as JSON.
        """
        if self.journal.recall(_RECORD, dict) == record:
            return
        self.journal.forget()
        for path in self.folder.iterdir():
            if path.name != self._state:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.journal.note(_RECORD, record)

    def put_in_place(self) -> None:
        """Write everything to the disk, and make the folder the bundle. The earlier bundle is deleted last."""
        self._sync()
        state = self.folder / self._state
        if not self.output.exists():
            os.replace(self.folder, self.output)
        else:
            self.journal.note(_SWAP, _identity(self.output))
            if exchange(self.folder, self.output):
                os.replace(self.folder, self.output / self._state / _REPLACED)
            else:
                os.replace(self.output, state / _REPLACED)
                os.replace(self.folder, self.output)
        sync_folders([self.output.parent])
        shutil.rmtree(self.output / self._state, ignore_errors=True)  # the bundle is complete, whatever happens

    def _sync(self) -> None:
        """Delete drafts of interrupted writes, and wait until files and names are on the disk."""
        for root, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if name != self._state]
            for name in files:
                path = Path(root, name)
                path.unlink() if is_draft(name) else sync_file(path)
            sync_folders([Path(root)])

    def _refuse_others(self) -> None:
        """Refuse to work in a folder that another program made, or that holds links.

        Raises:
            InputError: As said.
        """
        if not os.path.lexists(self.folder):
            return
        advice = "move it away and run the command again"
        if not _is_folder(self.folder):
            raise InputError(f"{self._option}: {self.folder}, the place to work in, is no folder; {advice}")
        state = self.folder / self._state
        if not _is_folder(state):
            if os.path.lexists(state) or any(self.folder.iterdir()):
                raise InputError(f"{self._option}: {self.folder}, the folder to work in, holds other files; {advice}")
            return
        for root, folders, files in os.walk(self.folder):
            for name in (*folders, *files):
                path = Path(root, name)
                mode = path.lstat()
                if not (stat.S_ISDIR(mode.st_mode) or (stat.S_ISREG(mode.st_mode) and mode.st_nlink == 1)):
                    raise InputError(
                        f"{self._option}: {path}, in the folder to work in, is a link or no plain file; {advice}"
                    )


def recover_build(bundle: Path) -> None:
    """Complete what an interrupted `build` left between its last steps, where the file system cannot swap folders."""
    output = Path(os.path.realpath(bundle))
    with contextlib.suppress(Timeout, OSError):  # the build itself reports both
        recover_swap(output, output.with_name(f"{output.name}{BUILD_ENDING}"), BUILD_STATE)


def recover_swap(output: Path, folder: Path, state: str) -> None:
    """Complete a swap that was interrupted between its steps; without one, nothing is changed.

    Args:
        output: The bundle's folder.
        folder: The folder to work in.
        state: Name of the state folder.

    Raises:
        Timeout: The command that swaps them is alive.
    """
    kept, after = folder / state / _REPLACED, output / state
    if not os.path.lexists(output) and _is_folder(folder / state) and _is_folder(kept):
        os.replace(kept, output)  # the command that was interrupted comes again, and finds its jobs done
    if not (_is_folder(after) and _is_folder(folder)) or (after / "lock").is_symlink():
        return
    if Journal(after).recall(_SWAP, dict) == _identity(folder):
        with FileLock(after / "lock", timeout=0):
            os.replace(folder, after / _REPLACED)
        shutil.rmtree(after)


def _is_folder(path: Path) -> bool:
    """Return True for a folder that is no link."""
    return path.is_dir() and not path.is_symlink()


def _identity(folder: Path) -> dict[str, int]:
    """Return numbers that tell a folder from every other folder of this machine."""
    found = folder.stat()
    return {"device": found.st_dev, "file": found.st_ino}
