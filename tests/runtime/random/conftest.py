"""Fixtures of the random number tests: torch when it is there, bits compared where that holds, the native library."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from diffoundry.runtime.random import native as native_module

ULP = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
SOURCE = Path(__file__).parents[3] / "native" / "random"


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def assert_same_normals(torch):
    """Normals of ours against torch's: equal bits where torch runs its AVX2 code, else the documented distance."""
    bit_equal = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}

    def check(ours, theirs):
        name = str(theirs.dtype).removeprefix("torch.")
        assert ours.dtype == (np.float32 if name == "bfloat16" else np.dtype(name))
        expected = (theirs.float() if name == "bfloat16" else theirs).numpy()
        assert ours.shape == expected.shape
        if bit_equal and name != "float64":
            assert ours.tobytes() == expected.tobytes()
        else:
            np.testing.assert_allclose(ours, expected, rtol=4 * ULP[name], atol=min(1e-6, 4 * ULP[name]))

    return check


@pytest.fixture(scope="session")
def built_library(tmp_path_factory):
    """The native library, built from its sources, at the best level of this machine."""
    cmake = shutil.which("cmake")
    if cmake is None or not SOURCE.is_dir():
        pytest.skip("no CMake, or no sources: the native library cannot be built here")
    folder = tmp_path_factory.mktemp("native_random")
    made = subprocess.run([cmake, "-S", SOURCE, "-B", folder, "-DCMAKE_BUILD_TYPE=Release"], capture_output=True)
    if made.returncode:
        pytest.skip("CMake finds no C++ compiler")
    subprocess.run([cmake, "--build", folder, "--config", "Release"], check=True, capture_output=True)
    library = native_module._load(next(folder.rglob(native_module._LIBRARY)))
    assert isinstance(library, native_module.NativeLibrary), library
    return library


@pytest.fixture(params=range(3), ids=["portable", "avx2", "avx512"])
def native(request, built_library):
    """The native library at each level of instructions that this machine has."""
    if request.param > built_library.level:
        pytest.skip("this machine lacks these instructions")
    return dataclasses.replace(built_library, level=request.param)


@pytest.fixture(params=["numpy", "native"])
def backend(request, monkeypatch):
    """Generators made in the test draw from NumPy's code, then from the native library."""
    library = None if request.param == "numpy" else request.getfixturevalue("built_library")
    monkeypatch.setattr("diffoundry.runtime.random.twister.native_library", lambda: library)
    return request.param
