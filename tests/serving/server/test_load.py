"""The load test of `benchmarks/bench_serving.py`, with few requests."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

_BENCHMARK = Path(__file__).parents[3] / "benchmarks/bench_serving.py"


@pytest.mark.slow
def test_no_request_fails_and_memory_is_reported(emoji_bundle, tmp_path):
    options = "--clients 1,3 --images 6 --rounds 1 --requests 60 --steps 1 --options=--threads=1 --json found.json"
    command = [sys.executable, str(_BENCHMARK), str(emoji_bundle), *options.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["clients"]) == ["diffoundry 1", "diffoundry 3"]
    for row in found["clients"].values():
        assert row["failures"] == 0
        assert 0 < row["p50"] <= row["p90"] <= row["p99"]
        assert row["CPU s/image"] > 0
    assert (found["long"]["requests"], found["long"]["failures"]) == (60, 0)
    assert found["long"]["MB after"] > 10
    assert math.isfinite(found["long"]["growth in bytes a request"])


@pytest.mark.slow
def test_a_server_that_does_not_start_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, str(_BENCHMARK), str(tmp_path / "no.bundle")], capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 1
    assert "the server did not start: " in done.stderr
    assert "no.bundle" in done.stderr
