"""Memory goes back to the system: of a mapped file, and of blocks that were freed."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is done")

_RESIDENT = """
import mmap, sys
import numpy as np
from diffoundry.runtime.engines.memory import free_at_once, give_back

def resident(kind):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(kind)) / 1024

"""


def _run(script: str, *arguments) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", _RESIDENT + script, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


def test_pages_of_a_mapped_file_are_given_back(tmp_path):
    """64 MiB, read twice: the second time they are what they were."""
    file = tmp_path / "numbers"
    file.write_bytes(bytes(range(256)) * (1 << 18))
    read, given, again = _run(
        """
array = np.memmap(sys.argv[1], np.uint8, "r")
total = int(array.sum())
print(resident("RssFile"))
give_back(array.ctypes.data, array.nbytes)
print(resident("RssFile"))
assert int(array.sum()) == total
print(resident("RssFile"))
""",
        file,
    )
    assert read - given > 60
    assert again - given > 60


def test_freed_blocks_are_given_back():
    """Blocks of 8 MiB with small ones between them, which glibc would keep for want of one piece at the end."""
    script = """
if sys.argv[1] == "1":
    free_at_once()
np.ones(30 << 20, np.uint8)  # from here on glibc takes larger blocks from its heap
kept = []
for _ in range(16):
    block = np.ones(8 << 20, np.uint8)
    kept.append((block, bytearray(100_000)))
kept = [small for _, small in kept]
del block
print(resident("RssAnon"))
"""
    (usual,), (free,) = _run(script, 0), _run(script, 1)
    assert usual - free > 64
