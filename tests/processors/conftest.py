"""A processor without AVX-512 and without VNNI, emulated by QEMU down to CPUID, and a bundle made outside of it."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest


@pytest.fixture(scope="session")
def haswell() -> Callable[..., str]:
    """Run Python with these arguments on an emulated Intel Haswell (AVX2), and return its standard output."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed (Debian and Ubuntu: apt-get install qemu-user)")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("qemu-x86_64 runs the Python of Linux on x86-64 only")

    def run(*arguments: str | Path, folder: Path | None = None) -> str:
        command = [emulator, "-cpu", "Haswell", sys.executable, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def quantized_bundle(exported: Callable[..., Path]) -> Path:
    """The embedded model for both CPU targets in fp32 and int8, calibrated with three images of three steps."""
    request = QuantizationRequest(
        prompts=("red apple", "cat face", "rocket"), held_out=("pizza", "crown"), steps=3, threads=1,
        budget=Budget(min_psnr=20),
    )  # fmt: skip
    return exported("emoji", target="onnxruntime,openvino", precision="fp32,int8", quantization=request)
