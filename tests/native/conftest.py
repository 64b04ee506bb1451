"""Fixtures of the native tests: the libraries, compiled from their sources once a session, and attention in float64."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from diffoundry.runtime.native import kernel as kernel_module

SOURCE = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built(shared_folder):
    """The folder with the compiled libraries, laid out as in an installed package."""
    cmake = shutil.which("cmake")
    if cmake is None or sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("the native part needs CMake and Linux on x86-64")
    folder = shared_folder / "native"
    with FileLock(shared_folder / "native.lock"):
        if not (folder / "installed").is_dir():
            arguments = ["-S", SOURCE, "-B", folder / "build", f"-DPython_EXECUTABLE={sys.executable}"]
            made = subprocess.run([cmake, *arguments], capture_output=True, text=True)
            if "No CMAKE_CXX_COMPILER" in made.stderr:
                pytest.skip("the native part needs a C++ compiler")
            assert made.returncode == 0, made.stderr
            subprocess.run([cmake, "--build", folder / "build", "--parallel", "2"], check=True, capture_output=True)
            install = [cmake, "--install", folder / "build", "--prefix", folder / "half"]
            subprocess.run(install, check=True, capture_output=True)
            (folder / "half").rename(folder / "installed")
    return folder / "installed/diffoundry/runtime/native"


@pytest.fixture
def look_in(monkeypatch):
    """Let the package look for its libraries in one folder, and nowhere else."""

    def only(folder):
        for module in ("kernel", "library"):
            monkeypatch.setattr(
                f"diffoundry.runtime.native.{module}.installed_file",
                lambda name: folder / name if (folder / name).is_file() else None,
            )
        return folder

    return only


@pytest.fixture
def installed(built, look_in):
    """The package finds the compiled libraries."""
    return look_in(built)


@pytest.fixture(scope="session")
def kernel(built):
    return kernel_module._load(built / kernel_module._LIBRARY)


@pytest.fixture(params=["avx2", "avx512", "amx", pytest.param("avx512bf16", marks=pytest.mark.slow)])
def path(request, kernel):
    """Every path of the kernel that this machine can run."""
    if not kernel.available(request.param):
        pytest.skip(f"this machine lacks {request.param}: the path is untested here")
    return request.param


def to_bfloat16(array):
    """float32 rounded to bfloat16, ties to even, as its bits."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)
