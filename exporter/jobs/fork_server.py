"""Forks a process for each job, from one that has imported the job's libraries once.

`python -m diffoundry.exporter.jobs.fork_server MODULE[:FUNCTION]...` imports the modules, calls the functions, and then
reads jobs on standard input, one a line. It ends when standard input closes, that is, with the process that started it.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from diffoundry.exporter.configs.assemble import remove_scratch
from diffoundry.exporter.jobs.worker import say, work

__all__ = ["main"]


def main(modules: Sequence[str]) -> int:
    """Prepare, report whether forking is safe, and fork for each job until standard input closes."""
    for module in modules:
        with contextlib.suppress(ImportError):  # the job that needs it reports it
            _prepare(module)
    say({"forks": _forks_safely()})
    gc.collect()
    gc.freeze()  # the collector of a child would otherwise write to, and so copy, the pages that it shares
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _work(request)
        _, status = os.waitpid(pid, 0)
        say({"ended": os.waitstatus_to_exitcode(status)})
    return 0


def _prepare(reference: str) -> None:
    module, _, function = reference.partition(":")
    imported = importlib.import_module(module)
    if function:
        getattr(imported, function)()


def _forks_safely() -> bool:
    """Check that no thread would be lost by a fork.

    The thread pools of OpenBLAS, one each in NumPy and SciPy, end before a fork and start again when they are needed.
    A first fork ends them, so that any other thread shows.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task")) == 1


def _work(request: dict[str, str]) -> None:
    """Do the job in the forked process, which ends here: nothing of its parent is cleaned up twice."""
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
        os.dup2(log, sys.stderr.fileno())
        code = work(Path(request["job"]))
    finally:
        remove_scratch()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
