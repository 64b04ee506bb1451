"""The path of AVX512-BF16 against PyTorch in float64, with emulated instructions, on any processor."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.native.conftest import SOURCE
from tests.native.test_attention_kernel import SHAPES, decode, encode, random, reference, tolerance

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The kernel as a function of (q, k, v, heads, scale) on bfloat16 bits."""
    compiler = shutil.which("g++")
    if compiler is None or not Path("/usr/include/simde").is_dir():
        pytest.skip("the emulation needs g++ and Debian's libsimde-dev")
    library = tmp_path_factory.mktemp("emulated") / "bf16.so"
    folder = Path(__file__).parent / "emulated"
    options = ["-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-I", folder, "-I", SOURCE / "native/attention"]
    subprocess.run([compiler, *options, folder / "bf16_attention.cpp", "-o", library], check=True)
    call = ctypes.CDLL(str(library)).emulated_attention
    call.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_size_t] * 6 + [ctypes.c_float]
    call.restype = None

    def attention(q, k, v, heads, scale):
        (batch, queries, _), keys = q.shape, k.shape[1]
        out = np.zeros((batch, queries, v.shape[2]), np.uint16)
        sizes = batch, heads, queries, keys, q.shape[2] // heads, v.shape[2] // heads
        call(*(array.ctypes.data for array in (q, k, v, out)), *sizes, scale)
        return out

    return attention


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("amplitude", [1.0, 6.0])
def test_matches_float64(emulated, shape, amplitude):
    batch, heads, queries, keys, width, value_width = shape
    sizes = ((queries, width, amplitude), (keys, width, amplitude), (keys, value_width, 1.0))
    q, k, v = (
        encode(random(batch, length, heads * one, seed=seed, scale=scale), "bf16")
        for seed, (length, one, scale) in enumerate(sizes)
    )
    scale = width**-0.5
    error = abs(decode(emulated(q, k, v, heads, scale)) - reference(q, k, v, heads, scale)).max()
    assert error <= tolerance(q, k, v, heads, scale, "bf16")


def test_a_later_key_may_exceed_the_first_by_far(emulated):
    """The largest score is that of the last key, beyond what the sum of exponentials holds."""
    q, v = np.ones((1, 20, 16)), random(1, 100, 16)
    k = np.zeros((1, 100, 16))
    k[:, -1] = 40.0
    arrays = [encode(array, "bf16") for array in (q, k, v)]
    result = decode(emulated(*arrays, 1, 1.0))
    np.testing.assert_allclose(result, np.repeat(decode(arrays[2])[:, -1:], 20, 1))
