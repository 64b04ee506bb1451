"""Ends a process at a chosen step of the file system, as a kill or a loss of power does."""

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

_STEPS = ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync")

KILLED = 77


class _Steps:
    """Counts the steps; files that were written and not synced are lost at the last one."""

    def __init__(self, last: int, root: Path, *, power: bool) -> None:
        self._last, self._root, self._power = last, root, power
        self.count = 0
        self._unsynced: set[int] = set()

    def hook(self, module, name: str) -> None:
        """Count every call of a function."""
        real = getattr(module, name)

        def counted(*arguments, **options):
            self._step()
            if name != "fsync":
                return real(*arguments, **options)
            self._unsynced.discard(os.fstat(arguments[0]).st_ino)  # the disk of a test need not last
            return None

        setattr(module, name, counted)

    def watch_writes(self) -> None:
        """Note the files that are opened for writing, and copied."""
        opened, copied = os.open, shutil.copyfile

        def watched_open(path, flags, *arguments, **options):
            if flags & os.O_CREAT:
                self._step()
            descriptor = opened(path, flags, *arguments, **options)
            if flags & os.O_CREAT:
                self._unsynced.add(os.fstat(descriptor).st_ino)
            return descriptor

        def watched_copy(source, target, **options):
            self._step()
            copied(source, target, **options)
            self._unsynced.add(os.stat(target).st_ino)
            self._step()

        os.open, shutil.copyfile = watched_open, watched_copy

    def _step(self) -> None:
        self.count += 1
        if self.count == self._last:
            if self._power:
                self._lose()
            os._exit(KILLED)

    def _lose(self) -> None:
        """Fill with zeros what never reached the disk."""
        for path in self._root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self._unsynced:
                size = path.stat().st_size
                with path.open("r+b") as stream:
                    stream.write(b"\0" * size)


def end_at_step(last: int, root: Path, command: Callable[[], object], *, power: bool, more=()) -> int:
    """Run a command in a child process that ends right before its step number `last`.

    Args:
        last: Number of the step, from 1.
        root: Folder that holds everything that the command writes.
        command: The command.
        power: True to lose what was not synced, as with the power; False as when the process is killed.
        more: (module, name) of further functions that are steps.

    Returns:
        The number of steps that began.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            steps = _Steps(last, root, power=power)
            steps.watch_writes()
            for name in _STEPS:
                steps.hook(os, name)
            for module, name in more:
                steps.hook(module, name)
            command()
            os.write(writer, str(steps.count).encode())
            code = 0
        except BaseException:  # noqa: BLE001  # the parent reports it, with this on its standard error
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os.close(writer)
    assert code in (0, KILLED), f"the command failed at step {last}"
    with open(reader, "rb") as stream:
        return int(stream.read() or last)
