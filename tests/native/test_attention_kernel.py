"""The kernel on every path against PyTorch in float64, with inputs that are easy, large, one-hot and badly cut."""

import concurrent.futures
import ctypes
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.native import kernel as kernel_module
from tests.native.conftest import from_bfloat16, to_bfloat16

EPS = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Half a step of each type, relative."""

SHAPES = [  # batch, heads, queries, keys, width, width of v
    (2, 8, 256, 256, 40, 40),
    (2, 2, 130, 1025, 40, 40),
    (1, 3, 100, 77, 80, 80),
    (1, 2, 64, 513, 160, 160),
    (1, 2, 70, 96, 64, 64),
    (1, 2, 70, 96, 64, 48),
    (1, 2, 33, 129, 128, 128),
    (1, 1, 50, 70, 256, 256),
    (1, 1, 50, 200, 8, 24),
    (3, 1, 1, 31, 48, 104),
    (1, 2, 17, 1, 40, 40),
    (1, 1, 1, 1, 16, 16),
]


@pytest.fixture
def precision(path):
    return "bf16" if path in ("amx", "avx512bf16") else "fp32"


def encode(array, precision):
    return (
        to_bfloat16(array) if precision == "bf16" else array.astype({"fp32": np.float32, "fp16": np.float16}[precision])
    )


def decode(array):
    return from_bfloat16(array) if array.dtype == np.uint16 else array


def reference(q, k, v, heads, scale):
    """PyTorch's attention in float64 on the kernel's inputs."""
    import torch

    split = (
        torch.from_numpy(decode(x).astype(np.float64)).unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v)
    )
    result = torch.nn.functional.scaled_dot_product_attention(*split, scale=scale)
    return result.transpose(1, 2).flatten(2).numpy()


def largest_score(q, k, heads, scale):
    split = (decode(x).astype(np.float64).reshape(*x.shape[:2], heads, -1) for x in (q, k))
    return abs(np.einsum("bqhd,bkhd->bhqk", *split) * scale).max()


def random(*sizes, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal(sizes)


def tolerance(q, k, v, heads, scale, precision):
    """Bound of the rounding error: sums and exponents in float32, the exponentials and the result in their own type."""
    width = q.shape[2] // heads
    exponent = (width + 2) ** 0.5 * 2.0**-24 * largest_score(q, k, heads, scale)
    return (8 * 2.0**-24 + exponent + 2 * EPS[precision]) * abs(decode(v)).max()


@pytest.mark.slow_cases("*-1.0-2x8x256x256x40x40")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("amplitude", [1.0, 6.0])
def test_matches_float64(kernel, path, precision, shape, amplitude):
    batch, heads, queries, keys, width, value_width = shape
    q = encode(random(batch, queries, heads * width, seed=1, scale=amplitude), precision)
    k = encode(random(batch, keys, heads * width, seed=2, scale=amplitude), precision)
    v = encode(random(batch, keys, heads * value_width, seed=3), precision)
    scale = width**-0.5
    result = kernel.attention(q, k, v, heads=heads, scale=scale, path=path, threads=2)
    assert result.dtype == q.dtype
    error = abs(decode(result) - reference(q, k, v, heads, scale)).max()
    assert error <= tolerance(q, k, v, heads, scale, precision)


def test_not_further_from_float64_than_pytorch(kernel, path, precision):
    import torch

    arrays = [encode(random(2, 512, 8 * 40, seed=seed, scale=2.0), precision) for seed in range(3)]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    split = [torch.from_numpy(decode(x)).to(dtype).unflatten(2, (8, 40)).transpose(1, 2) for x in arrays]
    theirs = torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2).double().numpy()
    ours = decode(kernel.attention(*arrays, heads=8, scale=40**-0.5, path=path))
    exact = reference(*arrays, 8, 40**-0.5)
    ratio = np.std(ours - exact) / np.std(theirs - exact)
    assert ratio <= 1.25


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("path", ["avx2", "avx512"], indirect=True)
def test_half_precision_is_computed_in_float32(kernel, path, precision):
    arrays = [encode(random(2, 90, 3 * 40, seed=seed), precision) for seed in range(3)]
    result = decode(kernel.attention(*arrays, heads=3, scale=40**-0.5, path=path))
    exact = reference(*arrays, 3, 40**-0.5)
    assert (abs(result - exact) <= EPS[precision] * abs(exact) + 4e-6).all()


def test_one_hot_scores_select_one_value(kernel, path, precision):
    q = np.eye(48)[None, :, :] * 30.0
    k = np.eye(48)[::-1][None] * 30.0
    v = encode(random(1, 48, 40), precision)
    result = decode(kernel.attention(encode(q, precision), encode(k, precision), v, heads=1, scale=1.0, path=path))
    np.testing.assert_allclose(result, decode(v)[:, ::-1], rtol=0 if precision == "bf16" else 2 * EPS["fp32"])


@pytest.mark.parametrize("step", [3.0, 40.0, 3000.0], ids=["a little", "past the bound", "far past it"])
def test_scores_that_rise_from_key_to_key(kernel, path, precision, step):
    """The first keys' maximum is exceeded later, by so much that float32 would overflow without a second look."""
    keys = 300
    q = np.zeros((1, 20, 40))
    q[..., 0] = np.linspace(-1, 1, 20)
    k = np.zeros((1, keys, 40))
    k[..., 0] = step * np.arange(keys)
    arrays = [encode(x, precision) for x in (q, k, random(1, keys, 40))]
    result = decode(kernel.attention(*arrays, heads=1, scale=1.0, path=path))
    assert np.isfinite(result).all()
    assert abs(result - reference(*arrays, 1, 1.0)).max() <= tolerance(*arrays, 1, 1.0, precision)


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_equal_scores_give_the_mean(kernel, path, precision, offset):
    q, k = np.ones((1, 5, 8)), np.full((1, 77, 8), offset / 8)
    v = encode(random(1, 77, 16), precision)
    result = decode(kernel.attention(encode(q, precision), encode(k, precision), v, heads=1, scale=1.0, path=path))
    expected = decode(v).astype(np.float64).mean(axis=1, keepdims=True)
    assert abs(result - expected).max() <= 2 * EPS[precision] + 8 * EPS["fp32"]


def test_negative_scale(kernel, path, precision):
    arrays = [encode(random(1, 100, 2 * 24, seed=seed), precision) for seed in range(3)]
    result = decode(kernel.attention(*arrays, heads=2, scale=-0.7, path=path))
    assert abs(result - reference(*arrays, 2, -0.7)).max() <= tolerance(*arrays, 2, 0.7, precision)


def test_nothing_behind_the_last_key_counts(kernel, path, precision):
    q, k, v = (encode(random(1, 128, 40, seed=seed), precision) for seed in range(3))
    poisoned = [x.copy() for x in (k, v)]
    for x in poisoned:
        x[:, 77:] = to_bfloat16(np.nan) if precision == "bf16" else np.nan
    first = [x[:, :77] for x in poisoned]
    assert all(x.flags.c_contiguous for x in first)  # so the kernel is given this memory, not a copy
    result = kernel.attention(q, *first, heads=1, scale=0.2, path=path)
    np.testing.assert_array_equal(
        result, kernel.attention(q, k[:, :77].copy(), v[:, :77].copy(), heads=1, scale=0.2, path=path)
    )


def test_a_nan_stays_with_its_query(kernel, path, precision):
    arrays = [random(1, 40, 16, seed=seed) for seed in range(3)]
    arrays[0][0, 7, 3] = np.nan
    result = decode(kernel.attention(*(encode(x, precision) for x in arrays), heads=1, scale=0.25, path=path))
    assert np.isnan(result[0, 7]).all()
    assert np.isfinite(np.delete(result, 7, axis=1)).all()


def test_same_bits_from_any_number_of_threads(kernel, path, precision):
    arrays = [encode(random(2, 300, 4 * 40, seed=seed), precision) for seed in range(3)]
    results = [kernel.attention(*arrays, heads=4, scale=0.1, path=path, threads=n) for n in (1, 2, 5)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_calls_at_the_same_time(kernel, path, precision):
    def call(seed):
        arrays = [encode(random(1, 200 + seed, 2 * 40, seed=seed + i), precision) for i in range(3)]
        result = decode(kernel.attention(*arrays, heads=2, scale=0.15, path=path, threads=2))
        return abs(result - reference(*arrays, 2, 0.15)).max() <= tolerance(*arrays, 2, 0.15, precision)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(24)))


def test_denormal_numbers_are_back_afterwards(kernel, path, precision):
    arrays = [encode(random(1, 32, 8), precision)] * 3
    kernel.attention(*arrays, heads=1, scale=1.0, path=path, threads=1)
    tiny = np.full(4, 1e-40, np.float32)
    assert (tiny * np.float32(0.5) != 0).all()


def test_best_path_is_available(kernel):
    for precision in ("fp32", "fp16", "bf16"):
        name = kernel.best_path(precision)
        assert name == "none" or kernel.available(name)
    assert kernel.best_path("fp32") != "amx"
    if kernel.available("amx"):
        assert kernel.best_path("bf16") == "amx"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": np.zeros((1, 5, 16), np.float16)}, r"got \['float16', 'float32'\], expected one of float32"),
        ({"k": np.zeros((1, 4, 16), np.float32)}, r"k \(1, 4, 16\).*expected one batch, k and v of one length"),
        ({"q": np.zeros((1, 3, 24), np.float32)}, r"q \(1, 3, 24\).*q and k of one width"),
        ({"heads": 3}, "with 3 heads, expected widths that are multiples of the heads"),
    ],
)
def test_arrays_that_do_not_belong_together(kernel, change, message):
    zeros = {name: np.zeros((1, 5, 16), np.float32) for name in "qkv"}
    with pytest.raises(InputError, match=message):
        kernel.attention(**({**zeros, "heads": 1, "scale": 1.0, "path": "avx2"} | change))


@pytest.mark.parametrize(
    ("width", "keys", "dtype", "message"),
    [
        (12, 5, np.float32, "got heads of width 12, expected a multiple of 8 from 8 to 256"),
        (264, 5, np.float32, "got heads of width 264"),
        (16, 0, np.float32, "got no keys, expected at least one"),
        (16, 5, np.float32, "the path amx takes bfloat16|this processor lacks the path amx"),
    ],
)
def test_the_kernel_refuses_unsupported_calls(kernel, width, keys, dtype, message):
    arrays = [np.zeros((1, length, width), dtype) for length in (5, keys, keys)]
    with pytest.raises(EngineError, match=message):
        kernel.attention(*arrays, heads=1, scale=1.0, path="amx" if "amx" in message else "avx2")


_CHILD = """
import resource, sys
import numpy as np
from diffoundry.runtime.native import kernel as kernel_module
kernel = kernel_module._load(__import__("pathlib").Path(sys.argv[1]))
q = np.random.default_rng(0).standard_normal((256, 8, 32), np.float32)
alone = kernel.attention(q, q, q, heads=2, scale=0.2, path="avx2", threads=1)
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]) << 20,) * 2)
assert np.array_equal(kernel.attention(q, q, q, heads=2, scale=0.2, path="avx2", threads=1000), alone)
"""


def test_threads_that_cannot_start_leave_the_work_to_the_others(built, kernel):
    """512 threads, one a head, of 8 MB of stack do not fit into 1 GB; the result is the same."""
    if not kernel.available("avx2"):
        pytest.skip("this machine lacks avx2")
    library = str(built / kernel_module._LIBRARY)
    ended = subprocess.run([sys.executable, "-c", _CHILD, library, "1000"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_arguments_out_of_range_are_refused(kernel):
    q = np.zeros((1, 8, 16), np.float32)
    run = partial(kernel.attention, q, q, q, scale=1.0)
    for threads in (-1, 0, 1025, 2**31, 2.5, True, "4"):
        with pytest.raises(InputError, match="native attention: threads: got .*, expected 1 to 1024"):
            run(heads=2, path="avx2", threads=threads)
    with pytest.raises(InputError, match="path: got 'neon', expected one of none, avx2, avx512, amx, avx512bf16"):
        run(heads=2, path="neon")
    with pytest.raises(InputError, match="expected widths that are multiples of the heads"):
        run(heads=2.0, path="avx2")
    with pytest.raises(InputError, match="precision: got 'fp8', expected one of fp32, fp16, bf16"):
        kernel.best_path("fp8")


def test_the_library_checks_its_arguments_too(kernel):
    """Called as any other program may call it."""
    q, message = np.zeros((1, 8, 16), np.float32), ctypes.create_string_buffer(512)
    address = q.ctypes.data

    def call(path=1, threads=1, kind=0, arrays=(address,) * 3, batch=1, queries=8):
        out = np.zeros_like(q)
        sizes = (batch, 2, queries, 8, 8, 8)
        arguments = (path, threads, kind, *arrays, out.ctypes.data, *sizes, 1.0, message, len(message))
        return kernel._calls.diffoundry_attention(*arguments), message.value.decode()

    if kernel.available("avx2"):
        assert call()[0] == 0
    for arguments, expected in (
        ({"threads": -1}, "got -1 threads, expected 1 to 1024"),
        ({"threads": 2**31 - 1}, "got 2147483647 threads, expected 1 to 1024"),
        ({"kind": 7}, "got the type 7, expected 0 to 2"),
        ({"path": 9}, "this processor lacks the path none"),
        ({"arrays": (None, address, address)}, "got no data of q, expected its address"),
        ({"batch": 2**63}, "the sizes of q are too large"),
        ({"queries": 2**62}, "the sizes of q are too large"),
    ):
        assert call(**arguments) == (1, f"native attention: {expected}")
    assert kernel._calls.diffoundry_attention_best_path(99) == 0
    assert kernel._calls.diffoundry_attention_available(-5) == 0
