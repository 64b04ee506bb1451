"""The demo as `make demo` runs it: images, then a report with the headline on top."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.mark.slow
def test_the_demo_measures_without_pytorch_and_leads_with_its_figures(emoji_bundle, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(_EXAMPLES)}
    for script in ("generate_grid.py", "demo_report.py"):
        command = [sys.executable, str(_EXAMPLES / script), str(emoji_bundle), str(tmp_path)]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stdout + run.stderr
    ours, theirs = json.loads((tmp_path / "bench.json").read_text())["candidates"]
    assert ours["measured"]["peak_rss"] < 200e6
    assert ours["measured"]["peak_rss"] < theirs["measured"]["peak_rss"] / 2
    page = (tmp_path / "report.html").read_text().partition("<main>")[2]  # below the list of sections
    headline = page.index("PSNR to diffusers, worst image")
    assert headline < page.index("Peak memory") < page.index("Generated without PyTorch")
    assert json.loads((tmp_path / "verify.json").read_text())["passed"]
