"""Exports that are killed, run out of disk, or run twice at once: they leave no broken bundle, and continue."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffoundry.runtime import load

_COMPONENTS = ["text_encoder", "unet", "vae_encoder", "vae_decoder"]


def _command(checkpoint: Path, output: Path, *more: str) -> list[str]:
    start = [sys.executable, "-c", "from diffoundry.runtime.cli.main import main; main()", "export"]
    fixed = ["--batch", "2", "--height", "64", "--width", "64"]  # traced in half the time of free sizes
    return [*start, "--model", str(checkpoint), "--target", "onnxruntime", "-o", str(output), *fixed, *more]


def _wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [one for child in children for one in _descendants(child)]


def test_kill_then_resume(tiny_checkpoint, tmp_path):
    output = tmp_path / "tiny.bundle"
    partial = tmp_path / "tiny.bundle.partial"
    export = subprocess.Popen(_command(tiny_checkpoint, output), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _wait_for(partial / ".export/text_encoder.json", export)
    _wait_for(partial / "unet", export)
    while len(workers := _descendants(export.pid)) < 2:  # the process that forks, and the job
        assert export.poll() is None, "the export ended before it could be killed"
        time.sleep(0.01)
    export.send_signal(signal.SIGKILL)
    export.wait()
    assert not output.exists()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a killed export left its worker running"
        time.sleep(0.05)

    again = subprocess.run(_command(tiny_checkpoint, output, "--json"), capture_output=True, text=True, check=True)
    report = json.loads(again.stdout)
    assert report["kept"] == ["text_encoder"]
    assert list(report["jobs"]) == [*_COMPONENTS[1:], *(f"{name}, onnxruntime fp32" for name in _COMPONENTS)]
    assert os.listdir(tmp_path) == ["tiny.bundle"]
    assert load(output)("a", num_inference_steps=1, seed=0, output_type="latent").images.shape[1] == 4


def test_no_space_left(tiny_checkpoint, tmp_path):
    limit = 64 * 1024

    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    output = tmp_path / "tiny.bundle"
    run = subprocess.run(_command(tiny_checkpoint, output), preexec_fn=starve, capture_output=True, text=True)
    assert run.returncode == 1
    assert "no space left while writing" in run.stderr
    assert "run the same command again" in run.stderr
    assert not output.exists()
    subprocess.run(_command(tiny_checkpoint, output), capture_output=True, check=True)
    assert os.listdir(tmp_path) == ["tiny.bundle"]


def test_two_exports_to_one_folder(tiny_checkpoint, tmp_path):
    output = tmp_path / "tiny.bundle"
    first = subprocess.Popen(_command(tiny_checkpoint, output), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _wait_for(tmp_path / "tiny.bundle.partial/.export/recipe.json", first)
    second = subprocess.run(_command(tiny_checkpoint, output), capture_output=True, text=True)
    assert second.returncode == 1
    assert "another export is writing it" in second.stderr
    assert first.wait() == 0
    assert load(output).components.bundle.components


@pytest.fixture
def tiny_checkpoint(tiny_sd_checkpoint):
    """The folder of a tiny random checkpoint."""
    return tiny_sd_checkpoint()
