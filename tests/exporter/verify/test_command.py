"""`diffoundry verify` as it is typed: exit codes, the table, JSON and the HTML report."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from diffoundry.exporter.cli.verify import command

_QUICK = ("--prompt", "red apple", "--steps", "2", "--threads", "1")


def _run(*arguments):
    program = "from diffoundry.runtime.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "verify", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


def test_a_broken_bundle_exits_with_1_after_everything_is_printed(copied, tmp_path):
    copied.edit_json("scheduler/scheduler_config.json", beta_end=0.01201)
    html = tmp_path / "report.html"
    done = _run(copied.path, *_QUICK, "--html", html)
    assert done.returncode == 1
    rows = [line for line in done.stdout.splitlines() if "│ FAIL" in line]
    assert "beta_end 0.01201, expected 0.012" in rows[0]
    assert "PSNR, dB" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("FAILED: ")
    assert f"{copied.path} is not the model emoji" in last
    page = html.read_text()
    assert page.count("<img ") == 2
    assert page.count('class="gate fail"') == len(rows)
    assert "Traceback" not in done.stderr


def test_a_changed_file_ends_in_one_sentence(copied):
    path = copied.path / "unet/model.onnx_data"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = _run(copied.path, *_QUICK)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "unet/model.onnx_data has SHA-256" in line
    assert "Traceback" not in done.stderr


def test_a_true_bundle_as_json(emoji_bundle):
    result = CliRunner().invoke(command, [str(emoji_bundle), *_QUICK, "--seed", "3", "--json"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["passed"] is True
    assert data["settings"] == {
        "prompts": ["red apple"], "seeds": [3], "steps": 2, "guidance_scale": 7.5, "height": 64, "width": 64,
    }  # fmt: skip
    assert len(data["loops"][0]["curve"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompts", "0"), "0 is not in the range 1<=x<=16"),
        (("--steps", "0"), "0 is not in the range x>=1"),
    ],
)
def test_wrong_usage(arguments, message):
    result = CliRunner().invoke(command, ["emoji.bundle", *arguments])
    assert result.exit_code == 2
    assert message in result.output
