"""TorchCpuGenerator against torch's CPU generator."""

import copy
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_harness.tables import check_each

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import TorchCpuGenerator

pytestmark = pytest.mark.usefixtures("backend")

DTYPES = ["float32", "float16", "bfloat16", "float64"]
SEEDS = [0, 1, 42, 2**31 - 1, 2**32 - 1, 2**32, 2**40 + 7, 2**63, 2**64 - 1, -1, -5, -(2**63)]
SHAPES = [(), (0,), (2, 0, 3), (1, 4, 8, 8), (3, 5, 7), (1, 4, 64, 64), (2, 4, 33, 31), (1, 3, 5, 64, 64), (40_001,)]


def pair(torch, seed):
    return TorchCpuGenerator(seed), torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_randn_of_every_small_size(torch, assert_same_normals, dtype):
    """Around 16 the order changes; twice in a row, so that the state left behind counts too."""

    def check(size):
        for seed in (0, 123):
            ours, theirs = pair(torch, seed)
            for _ in range(3):
                expected = torch.randn(size, generator=theirs, dtype=getattr(torch, dtype))
                assert_same_normals(ours.randn((size,), dtype), expected)

    check_each(range(41), check)


@pytest.mark.parametrize("dtype", DTYPES)
def test_randn_of_shapes(torch, assert_same_normals, dtype):
    def check(shape):
        ours, theirs = pair(torch, 7)
        for _ in range(2):
            expected = torch.randn(shape, generator=theirs, dtype=getattr(torch, dtype))
            assert_same_normals(ours.randn(shape, dtype), expected)

    check_each(SHAPES, check)


def test_seeds(torch, assert_same_normals):
    def check(seed):
        ours, theirs = pair(torch, seed)
        assert ours.seed == theirs.initial_seed()
        assert_same_normals(ours.randn((1000,)), torch.randn(1000, generator=theirs))

    check_each(SEEDS, check)


def test_randn_many_seeds(torch, assert_same_normals):
    for seed in range(300):
        ours, theirs = pair(torch, seed)
        assert_same_normals(ours.randn((1, 4, 16, 16)), torch.randn((1, 4, 16, 16), generator=theirs))


def test_randn_is_float32_unless_asked():
    assert TorchCpuGenerator(0).randn((20,)).dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_rand(torch, dtype):
    def check(size):
        ours, theirs = pair(torch, 11)
        expected = torch.rand(size, generator=theirs, dtype=getattr(torch, dtype))
        got = ours.rand((size,), dtype)
        assert got.dtype == (np.float32 if dtype == "bfloat16" else np.dtype(dtype))
        np.testing.assert_array_equal(got, (expected.float() if dtype == "bfloat16" else expected).numpy())
        assert got.size == 0 or (got.min() >= 0 and got.max() < 1)

    check_each([0, 1, 15, 16, 17, 100_003], check)


BOUNDS = [
    (0, 1), (0, 2), (0, 10), (-5, 5), (100, 1100), (0, 2**28 - 1), (0, 2**28), (1, 2**28 + 2),
    (0, 2**32), (-(2**40), 3), (0, 2**63 - 1), (-(2**63), 0), (-(2**63), 2**63 - 1), (2**63 - 2, 2**63 - 1),
]  # fmt: skip


def test_randint(torch):
    def check(bounds):
        ours, theirs = pair(torch, 5)
        for shape in ((1,), (3, 4), (2000,), ()):
            expected = torch.randint(*bounds, shape, generator=theirs).numpy()
            got = ours.randint(*bounds, shape)
            assert got.dtype == np.int64
            assert got.shape == shape
            np.testing.assert_array_equal(got, expected)

    check_each(BOUNDS, check)


CALLS = st.one_of(
    st.tuples(st.just("randn"), st.integers(0, 50), st.sampled_from(DTYPES)),
    st.tuples(st.just("rand"), st.integers(0, 20), st.sampled_from(DTYPES)),
    st.tuples(st.just("randint"), st.integers(0, 5), st.sampled_from([3, 2**28 - 1, 2**28, 2**50])),
)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(-(2**63), 2**64 - 1), calls=st.lists(CALLS, max_size=12))
def test_interleaved_calls_leave_torchs_state(torch, assert_same_normals, seed, calls):
    ours, theirs = pair(torch, seed)
    for call, size, argument in calls:
        if call == "randint":
            expected = torch.randint(-2, argument, (size,), generator=theirs).numpy()
            np.testing.assert_array_equal(ours.randint(-2, argument, (size,)), expected)
        elif call == "rand":
            expected = torch.rand(size, generator=theirs, dtype=getattr(torch, argument)).double().numpy()
            np.testing.assert_array_equal(ours.rand((size,), argument), expected)
        else:
            expected = torch.randn(size, generator=theirs, dtype=getattr(torch, argument))
            assert_same_normals(ours.randn((size,), argument), expected)
    if any(size for _, size, _ in calls):
        assert ours.get_state().tobytes() == theirs.get_state().numpy().tobytes()


@pytest.mark.parametrize("drawn", [0, 1, 5, 312, 623, 624, 625])
def test_states_travel_both_ways(torch, assert_same_normals, drawn):
    """The twister's batch of 624 words, used up or not, and a normal in waiting."""
    ours, theirs = pair(torch, 99)
    torch.rand(drawn, generator=theirs)
    torch.randn(3, generator=theirs)
    ours.set_state(theirs.get_state().numpy())
    theirs_again = torch.Generator()
    theirs_again.set_state(torch.from_numpy(ours.get_state()))
    for size in (1, 700, 2, 20):
        expected = torch.randn(size, generator=theirs)
        assert_same_normals(ours.randn((size,)), expected)
        assert torch.equal(torch.randn(size, generator=theirs_again), expected)


def test_state_before_any_draw_travels(torch, assert_same_normals):
    theirs = torch.Generator()
    theirs.set_state(torch.from_numpy(TorchCpuGenerator(3).get_state()))
    assert_same_normals(TorchCpuGenerator(3).randn((50,)), torch.randn(50, generator=theirs))
    ours = TorchCpuGenerator(0)
    ours.set_state(torch.Generator().manual_seed(4).get_state().numpy())
    assert ours.seed == 4
    np.testing.assert_array_equal(ours.randn((50,)), TorchCpuGenerator(4).randn((50,)))


def test_uniforms_of_zero_give_zeros_without_sign(torch, assert_same_normals):
    """log(1 - 0) = 0: a case of one in 2**24, made by a twister whose words are 0 from the second on."""
    theirs = torch.Generator().manual_seed(0)
    torch.rand(1, generator=theirs)
    state = theirs.get_state()
    state[24 + 8 : 24 + 8 * 40] = 0  # after seed, left, seeded and next: 624 words of 8 bytes
    theirs.set_state(state)
    ours = TorchCpuGenerator(0)
    ours.set_state(state.numpy())
    zeros = ours.randn((16,))
    assert zeros.tobytes() == bytes(64)
    assert_same_normals(zeros, torch.randn(16, generator=theirs))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_continue_on_their_own(copied):
    original = TorchCpuGenerator(8)
    original.randn((3,))
    twin = copied(original)
    assert twin.seed == 8
    expected = [original.randn((size,)) for size in (1, 40, 2)]
    for size, values in zip((1, 40, 2), expected, strict=True):
        np.testing.assert_array_equal(twin.randn((size,)), values)


def test_stored_torch_streams():
    """Runs where torch is not installed: digests of torch 2.13's numbers."""
    for case in json.loads((Path(__file__).parent / "torch_cpu_streams.json").read_text())["streams"]:
        generator = TorchCpuGenerator(case["seed"])
        for draw in case["draws"]:
            call, arguments = draw["call"]
            values = getattr(generator, call)(*arguments)
            np.testing.assert_array_equal(values.ravel()[:2], np.array(draw["first"], values.dtype))
            assert hashlib.sha256(values.tobytes()).hexdigest() == draw["sha256"]


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_beyond_64_bits(torch, seed):
    with pytest.raises(InputError, match=r"does not fit 64 bits, expected a whole number from -2\*\*63"):
        TorchCpuGenerator(seed)
    with pytest.raises((RuntimeError, ValueError)):
        torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", [1.5, "1", None])
def test_seed_that_is_no_integer(seed):
    with pytest.raises(InputError, match=r"The seed is .*expected an integer"):
        TorchCpuGenerator(seed)


@pytest.mark.parametrize("dtype", ["int64", np.complex64, np.longdouble])
def test_dtype_that_is_not_drawn(dtype):
    with pytest.raises(
        InputError, match=r"cannot be drawn as dtype .*expected one of float16, bfloat16, float32, float64"
    ):
        TorchCpuGenerator(0).randn((3,), dtype)
    with pytest.raises(InputError, match="cannot be drawn as dtype"):
        TorchCpuGenerator(0).rand((3,), dtype)


def test_bad_shapes():
    with pytest.raises(InputError, match=r"Shape \(2, -1\) has a negative dimension"):
        TorchCpuGenerator(0).randn((2, -1))
    with pytest.raises(InputError, match=r"A dimension of shape .*expected an integer"):
        TorchCpuGenerator(0).rand((2.5,))


@pytest.mark.parametrize(("low", "high"), [(3, 3), (4, 3), (0, 2**63), (-(2**63) - 1, 0)])
def test_bad_bounds(torch, low, high):
    with pytest.raises(InputError, match=f"randint got low={low}, high={high}: expected"):
        TorchCpuGenerator(0).randint(low, high, (3,))
    with pytest.raises((RuntimeError, ValueError)):
        torch.randint(low, high, (3,))


def test_damaged_states():
    generator = TorchCpuGenerator(0)
    with pytest.raises(InputError, match=r"dtype uint8 and shape \(16,\): expected uint8, \(5056,\)"):
        generator.set_state(np.zeros(16, np.uint8))
    with pytest.raises(InputError, match="state is damaged: its counters"):
        generator.set_state(np.zeros(5056, np.uint8))
