"""TorchCudaGenerator: known answers, numbers printed on GPUs, the launch geometry by hand, a GPU if there is one."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import TorchCudaGenerator
from diffoundry.runtime.random.philox import philox4x32

PRINTED = json.loads((Path(__file__).parent / "torch_cuda_printed.json").read_text())["cases"]
SMALL_GPU = {"multiprocessors": 2, "threads_per_multiprocessor": 512}  # 4 blocks, 1024 threads


def words(counter, key):
    return np.array(philox4x32(tuple(np.array([word], np.uint64) for word in counter), key)).ravel().tolist()


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers_of_philox(counter, key, answer):
    """Random123 (https://github.com/DEShawResearch/random123), tests/kat_vectors, the lines of philox4x32 10."""
    counter, key, answer = ([int(word, 16) for word in text.split()] for text in (counter, key, answer))
    assert words(counter, key[0] | key[1] << 32) == answer


@pytest.mark.parametrize("case", PRINTED, ids=[case["source"].split(",")[0][:60] for case in PRINTED])
def test_numbers_printed_on_gpus(case):
    generator = TorchCudaGenerator(
        case["seed"], multiprocessors=case["multiprocessors"], threads_per_multiprocessor=case["threads"]
    )
    for call, *arguments in [*case.get("before", []), case["draw"]]:
        drawn = getattr(generator, call)(*arguments)
    got = drawn.ravel()[case["at"]].astype(np.float64) * case.get("scale", 1) + case.get("shift", 0)
    np.testing.assert_allclose(got, case["values"], rtol=0, atol=5.2e-5)  # half the last decimal printed


def test_the_printed_numbers_tell_gpus_apart():
    """The same draw on a GPU of another size is far from what was printed, beyond the first threads."""
    case = PRINTED[0]
    drawn = TorchCudaGenerator(case["seed"]).randn(case["draw"][1]).ravel()[case["at"]]
    wrong = np.abs(drawn - case["values"]) > 1e-2
    assert not wrong[:18].any()
    assert wrong[18:].all()


def expected_words(seed, size, lanes, offset, threads):
    """Word by word as the kernel's loop says it; number i + lane T + sweep lanes T is of thread i."""
    numbers = {}
    for thread in range(threads):
        for sweep in range(-(-size // (threads * lanes))):
            drawn = words((offset // 4 + sweep, 0, thread, 0), seed)
            for lane in range(lanes):
                numbers[thread + (lane + sweep * lanes) * threads] = (
                    drawn[lane] if lanes == 4 else drawn[2 * lane] << 32 | drawn[2 * lane + 1]
                )
    return [numbers[i] for i in range(size)]


@pytest.mark.parametrize(("size", "threads"), [(1, 256), (300, 512), (1024, 1024), (1025, 1024), (4500, 1024)])
def test_launch_geometry(size, threads):
    generator = TorchCudaGenerator(9, **SMALL_GPU)
    got = generator.randint(0, 2**28 - 1, (size,))
    expected = [word % (2**28 - 1) for word in expected_words(9, size, 4, 0, threads)]
    np.testing.assert_array_equal(got, expected)
    assert generator.offset == 4 * -(-size // (4 * threads))

    offset = generator.offset
    got = generator.randint(-5, 2**60, (size,))
    expected = [word % (2**60 + 5) - 5 for word in expected_words(9, size, 2, offset, threads)]
    np.testing.assert_array_equal(got, expected)
    assert generator.offset == offset + 4 * -(-size // (2 * threads))


def test_randint_bounds_choose_32_or_64_bits():
    narrow, wide = TorchCudaGenerator(1), TorchCudaGenerator(1)
    np.testing.assert_array_equal(
        narrow.randint(0, 2**28 - 1, (300,)), [w % (2**28 - 1) for w in expected_words(1, 300, 4, 0, 512)]
    )
    np.testing.assert_array_equal(
        wide.randint(0, 2**28, (300,)), [w % 2**28 for w in expected_words(1, 300, 2, 0, 512)]
    )


def test_box_muller_and_uniforms_of_the_words():
    """In exact arithmetic: lanes 0 and 2 take the sine, 1 and 3 the cosine of the second word of their pair."""
    size = 4096
    drawn = np.array(expected_words(3, size, 4, 0, 1024)).reshape(4, 1024)
    uniforms = (drawn + 0.5) / 2**32
    rand = TorchCudaGenerator(3, **SMALL_GPU).rand((size,)).reshape(4, 1024)
    np.testing.assert_allclose(rand, uniforms, rtol=2**-23)
    radius = np.sqrt(-2 * np.log(uniforms[[0, 0, 2, 2]]))
    angle = 2 * np.pi * uniforms[[1, 1, 3, 3]]
    normals = radius * np.stack([np.sin(angle[0]), np.cos(angle[1]), np.sin(angle[2]), np.cos(angle[3])])
    randn = TorchCudaGenerator(3, **SMALL_GPU).randn((size,)).reshape(4, 1024)
    np.testing.assert_allclose(randn, normals, atol=4e-6)


def test_long_draws_are_computed_in_parts():
    """More threads than are computed at once: the same numbers as word for word."""
    size = 40_000
    got = TorchCudaGenerator(4).randint(0, 2**20, (size,))
    for i in (0, 16_383, 16_384, 39_999):
        assert got[i] == words((0, 0, i, 0), 4)[0] % 2**20


@pytest.mark.parametrize("seed", [2**32 + 5, -1, 2**64 - 1])
def test_seeds_fill_both_halves_of_the_key(seed):
    drawn = TorchCudaGenerator(seed).randint(0, 2**28 - 1, (1,))
    assert drawn[0] == words((0, 0, 0, 0), seed % 2**64)[0] % (2**28 - 1)
    assert TorchCudaGenerator(seed).seed == seed % 2**64


def test_offset_beyond_32_bits():
    generator = TorchCudaGenerator(6)
    generator._offset = 4 * (2**32 + 3)
    assert generator.randint(0, 2**28 - 1, (2,))[1] == words((3, 1, 1, 0), 6)[0] % (2**28 - 1)


def test_small_draws_are_the_same_on_all_gpus():
    on_t4 = TorchCudaGenerator(0, multiprocessors=40, threads_per_multiprocessor=1024)
    np.testing.assert_array_equal(on_t4.randn((40_960,)), TorchCudaGenerator(0).randn((40_960,)))
    assert not np.array_equal(on_t4.randn((40_961,)), TorchCudaGenerator(0).randn((40_961,)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_dtypes_round_the_same_numbers(torch, dtype):
    for call in ("randn", "rand"):
        single = getattr(TorchCudaGenerator(5), call)((3000,))
        expected = torch.from_numpy(single).to(getattr(torch, dtype)).float()
        expected[expected == 1] = 0 if call == "rand" else 1
        got = getattr(TorchCudaGenerator(5), call)((3000,), dtype)
        np.testing.assert_array_equal(got, expected.numpy())
        assert call == "randn" or dtype == "float16" or (got == 0).any()  # some do round up to 1


def test_empty_draws_move_nothing():
    generator = TorchCudaGenerator(0)
    assert generator.randn((2, 0)).shape == (2, 0)
    assert generator.randint(0, 3, (0,)).dtype == np.int64
    assert generator.offset == 0


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_continue_on_their_own(copied):
    original = TorchCudaGenerator(8, multiprocessors=1, threads_per_multiprocessor=256)
    original.randn((3,))
    twin = copied(original)
    expected = [original.randn((size,)) for size in (1, 400)]
    for size, values in zip((1, 400), expected, strict=True):
        np.testing.assert_array_equal(twin.randn((size,)), values)


def test_wrong_arguments():
    with pytest.raises(InputError, match=r"seed: got 18446744073709551616, which does not fit 64 bits"):
        TorchCudaGenerator(2**64)
    for wrong in ({"multiprocessors": 0}, {"threads_per_multiprocessor": 1000}, {"threads_per_multiprocessor": 0}):
        with pytest.raises(InputError, match="threads each cannot be imitated: expected 1 or more, and a positive"):
            TorchCudaGenerator(0, **wrong)
    with pytest.raises(InputError, match="does not draw float64: expected float16, bfloat16 or float32"):
        TorchCudaGenerator(0).randn((3,), np.float64)
    with pytest.raises(InputError, match=r"2147483648 random numbers in one draw: expected fewer than 2\*\*31"):
        TorchCudaGenerator(0).rand((2**31,))


def test_against_torch_on_a_gpu(torch):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")
    gpu = torch.cuda.get_device_properties(0)
    ours = TorchCudaGenerator(
        77,
        multiprocessors=gpu.multi_processor_count,
        threads_per_multiprocessor=gpu.max_threads_per_multi_processor,
    )
    theirs = torch.Generator("cuda").manual_seed(77)
    for size in (1, 5, 256, 257, 16_384, 300_001, 3_000_000):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            uniforms = torch.rand(size, generator=theirs, device="cuda", dtype=dtype).float().cpu()
            np.testing.assert_array_equal(ours.rand((size,), name).astype(np.float32), uniforms.numpy())
            normals = torch.randn(size, generator=theirs, device="cuda", dtype=dtype).float().cpu()
            np.testing.assert_allclose(
                ours.randn((size,), name).astype(np.float32),
                normals.numpy(),
                rtol=0 if dtype == torch.float32 else torch.finfo(dtype).eps,
                atol=5e-6,
            )
        for high in (1000, 2**40):
            integers = torch.randint(-3, high, (size,), generator=theirs, device="cuda").cpu()
            np.testing.assert_array_equal(ours.randint(-3, high, (size,)), integers.numpy())
        assert ours.offset == theirs.get_offset()
