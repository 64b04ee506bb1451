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

pytestmark = pytest.mark.slow

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


def test_an_export_that_runs_out_of_disk_is_doubled_and_killed_completes(tiny_checkpoint, tmp_path):
    """One folder and one command for all, because an export takes seconds."""
    command, output = _command(tiny_checkpoint, tmp_path / "tiny.bundle"), tmp_path / "tiny.bundle"
    _fill_the_disk(command)
    assert not output.exists()
    export, workers = _start_until_the_unet(command, tmp_path / "tiny.bundle.partial")
    _check_a_second_is_refused(command, [export.pid, *workers])
    export.kill()
    export.wait()
    _wait_for_the_end_of(workers)
    assert not output.exists()

    again = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(again.stdout)
    assert report["kept"] == ["text_encoder"]
    assert list(report["jobs"]) == [*_COMPONENTS[1:], *(f"{name}, onnxruntime fp32" for name in _COMPONENTS)]
    assert os.listdir(tmp_path) == ["tiny.bundle"]
    assert load(output)("a", num_inference_steps=1, seed=0, output_type="latent").images.shape[1] == 4


def _fill_the_disk(command: list[str]) -> None:
    limit = 64 * 1024

    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    run = subprocess.run(command, preexec_fn=starve, capture_output=True, text=True)
    assert run.returncode == 1
    assert "no space left while writing" in run.stderr
    assert "run the same command again" in run.stderr


def _start_until_the_unet(command: list[str], partial: Path) -> tuple[subprocess.Popen, list[int]]:
    export = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _wait_for(partial / ".export/text_encoder.json", export)
    _wait_for(partial / "unet", export)
    while len(workers := _descendants(export.pid)) < 2:  # the process that forks, and the job
        assert export.poll() is None, "the export ended before it could be killed"
        time.sleep(0.01)
    return export, workers


def _check_a_second_is_refused(command: list[str], processes: list[int]) -> None:
    """Run a second export while the processes of the first are stopped."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    second = subprocess.run(command, capture_output=True, text=True)
    for process in processes:
        os.kill(process, signal.SIGCONT)
    assert second.returncode == 1
    assert "another export is writing it" in second.stderr


def _wait_for_the_end_of(workers: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a killed export left its worker running"
        time.sleep(0.05)


@pytest.fixture
def tiny_checkpoint(tiny_sd_checkpoint):
    """The folder of a tiny random checkpoint."""
    return tiny_sd_checkpoint("sd1-least")
