"""Generators by name, and randn_tensor against diffusers' function of that name."""

import typing

import numpy as np
import pytest

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import Generator, GeneratorKind, TorchCpuGenerator, make_generator, randn_tensor

KINDS = typing.get_args(GeneratorKind)
DTYPES = ["float32", "float16", "bfloat16"]


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("torch")
    return pytest.importorskip("diffusers.utils.torch_utils").randn_tensor


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_made(kind):
    generator = make_generator(kind, 7)
    assert isinstance(generator, Generator)
    assert (generator.kind, generator.seed) == (kind, 7)
    assert repr(generator) == f"{type(generator).__name__}(seed=7)"
    assert generator.randn((2, 3)).shape == (2, 3)


def test_kinds_are_different_streams():
    drawn = {make_generator(kind, 0).randn((4,)).tobytes() for kind in KINDS}
    assert len(drawn) == len(KINDS)


def test_unknown_kind():
    with pytest.raises(InputError, match=f"no random generator 'mps': expected one of {', '.join(KINDS)}"):
        make_generator("mps", 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 8, 8), (3, 5), (2, 4, 3, 9, 7)])
def test_one_generator(torch, theirs, assert_same_normals, shape, dtype):
    ours, expected = TorchCpuGenerator(5), torch.Generator().manual_seed(5)
    for _ in range(2):
        assert_same_normals(
            randn_tensor(shape, ours, dtype), theirs(shape, generator=expected, dtype=getattr(torch, dtype))
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (3, 5), (3, 4, 3, 9, 7)])
def test_one_generator_for_each_image(torch, theirs, assert_same_normals, shape, dtype):
    seeds = [11, 3, 2**40]
    ours = [TorchCpuGenerator(seed) for seed in seeds]
    expected = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(2):
        assert_same_normals(
            randn_tensor(shape, ours, dtype), theirs(shape, generator=expected, dtype=getattr(torch, dtype))
        )


def test_a_list_of_one_draws_the_whole_batch(torch, theirs, assert_same_normals):
    expected = theirs((3, 4, 5), generator=[torch.Generator().manual_seed(1)])
    assert_same_normals(randn_tensor((3, 4, 5), [TorchCpuGenerator(1)]), expected)
    assert_same_normals(randn_tensor((3, 4, 5), (TorchCpuGenerator(1),)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_a_batch_is_the_image_alone(kind):
    batch = randn_tensor((3, 4, 8, 8), [make_generator(kind, seed) for seed in (1, 2, 3)])
    np.testing.assert_array_equal(batch[1:2], randn_tensor((1, 4, 8, 8), make_generator(kind, 2)))


@pytest.mark.parametrize(("count", "shape"), [(2, (3, 4)), (4, (3, 4)), (0, (3, 4)), (2, ())])
def test_as_many_generators_as_images(count, shape):
    generators = [TorchCpuGenerator(seed) for seed in range(count)]
    with pytest.raises(InputError, match=f"A list of {count} random generators .* expected one generator, or as many"):
        randn_tensor(shape, generators)
