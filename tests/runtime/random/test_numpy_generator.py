"""NumpyGenerator against numpy.random.RandomState."""

import copy
import pickle

import numpy as np
import pytest

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import NumpyGenerator


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_draws_as_the_onnx_pipelines_do(seed, dtype):
    ours, theirs = NumpyGenerator(seed), np.random.RandomState(seed)
    for shape in ((1, 4, 8, 8), (3,), (5, 7), (0,)):
        expected = theirs.randn(*shape).astype(dtype)
        got = ours.randn(shape, dtype)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(ours.rand(shape, dtype), theirs.rand(*shape).astype(dtype))
        np.testing.assert_array_equal(ours.randint(-3, 2**40, shape), theirs.randint(-3, 2**40, shape, dtype=np.int64))


def test_scalar_shapes_are_arrays():
    generator = NumpyGenerator(0)
    drawn = [generator.randn(()), generator.rand(()), generator.randint(0, 3, ())]
    assert [(type(value), value.shape) for value in drawn] == [(np.ndarray, ())] * 3
    assert drawn[0] == np.float32(np.random.RandomState(0).randn())


def test_bfloat16(torch):
    values = NumpyGenerator(1).randn((1000,), "bfloat16")
    expected = torch.from_numpy(np.random.RandomState(1).randn(1000)).to(torch.bfloat16).float().numpy()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_continue_on_their_own(copied):
    original = NumpyGenerator(8)
    original.randn((3,))
    twin = copied(original)
    assert (twin.seed, twin.kind) == (8, "numpy")
    expected = [original.randn((size,)) for size in (1, 40, 2)]
    for size, values in zip((1, 40, 2), expected, strict=True):
        np.testing.assert_array_equal(twin.randn((size,)), values)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(InputError, match=rf"Seed {seed} is not one of NumPy's RandomState: expected 0 to 2\*\*32 - 1"):
        NumpyGenerator(seed)


def test_bad_arguments():
    with pytest.raises(InputError, match="randint got low=3, high=3"):
        NumpyGenerator(0).randint(3, 3, (2,))
    with pytest.raises(InputError, match="negative dimension"):
        NumpyGenerator(0).randn((-1,))
    with pytest.raises(InputError, match="cannot be drawn as dtype 'int32'"):
        NumpyGenerator(0).rand((2,), np.int32)
