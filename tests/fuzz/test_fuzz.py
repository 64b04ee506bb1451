"""Damaged files of every kind that a user or a bundle brings end in a result or in one of our errors.

Each case is one file, damaged by its number, and read in a process of its own under bounds of time and memory.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")

RUNNER = Path(__file__).parent / "run_cases.py"


def _run(folder, first, count):
    """Run cases by number; return the counts of outcomes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(RUNNER), str(folder / "cases"), str(first), str(count)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    *failures, counts = map(json.loads, ended.stdout.splitlines())
    listed = "\n".join(f"case {one['seed']}, {one['subject']}, {one['file']}: {one['outcome']}" for one in failures)
    assert not failures, f"{len(failures)} of {count} cases:\n{listed[:20_000]}"
    return counts


def test_damaged_files_end_in_our_errors(tmp_path):
    counts = _run(tmp_path, 0, 100)
    assert sum(counts.values()) == 100
    assert min(counts["read"], counts["refused"]) > 20  # the damage is neither idle nor seen before the readers


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_damaged_files_end_in_our_errors(tmp_path):
    assert sum(_run(tmp_path, 0, 10_000).values()) == 10_000
