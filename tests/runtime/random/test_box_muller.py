"""The float32 Box-Muller transform over everything that it can be given: against torch, and the native one against it.

A normal is the product of a radius, of which there are 2**24, and of a cosine or a sine, of which there are 2**24. With
the second uniform zero the cosine is one, and there is a first uniform whose radius is exactly one, so two sweeps show
every factor as it is. Words are handed to torch and to the native library by way of the twister's state.
"""

import dataclasses

import numpy as np
import pytest

from diffoundry.runtime.random.box_muller import CHUNK, box_muller_float32
from diffoundry.runtime.random.twister import STATE_WORDS, NativeTwister

COUNT = 2**24
PART = 2**19


def _blocks(first, second):
    """Words of blocks of 16, from the two uniforms of each pair."""
    pair = np.broadcast_arrays(np.asarray(first, np.uint32), np.asarray(second, np.uint32))
    return np.stack([values.reshape(-1, 8) for values in pair], axis=1).ravel()


def _ours(words):
    words, normals = words.copy(), np.empty(len(words), np.float32)
    for start in range(0, len(words), CHUNK):
        box_muller_float32(words[start : start + CHUNK], normals[start : start + CHUNK])
    return normals


@pytest.fixture(scope="module")
def uniform_of_radius_one():
    """A numerator over 2**24; 1 - exp(-1 / 2) is near it."""
    near = np.arange(6_601_000, 6_602_000, dtype=np.uint32)
    radii = _ours(_blocks(near, 0)).reshape(-1, 2, 8)[:, 0].ravel()
    return int(near[np.flatnonzero(radii == 1)[0]])


@pytest.fixture(params=["radii", "directions"])
def sweep(request, uniform_of_radius_one):
    """Generator of words, part by part, that hold every uniform once."""

    def parts():
        for start in range(0, COUNT, PART):
            some = np.arange(start, start + PART, dtype=np.uint32)
            yield _blocks(some, 0) if request.param == "radii" else _blocks(uniform_of_radius_one, some)

    return parts


def _untempered(words):
    """The twister's state words that are tempered to these (Matsumoto and Nishimura 1998, equations 2.2 to 2.5)."""
    y = words ^ (words >> 18)
    y ^= (y << 15) & np.uint32(0xEFC60000)
    for mask in (0x00001680, 0x000C4000, 0x0D200000, 0x90000000):
        y ^= (y << 7) & np.uint32(mask)
    return y ^ (y >> 11) ^ (y >> 22)


def test_words_are_untempered(torch):
    """The state goes in, the words that were asked for come out."""
    words = np.random.default_rng(0).integers(0, 2**32, STATE_WORDS - 1, dtype=np.uint32)
    generator = torch.Generator().manual_seed(0)
    state = _torch_state(generator, words)
    generator.set_state(torch.from_numpy(state))
    drawn = torch.randint(0, 2**28 - 1, (len(words),), generator=generator).numpy()
    np.testing.assert_array_equal(drawn, words % (2**28 - 1))


def _torch_state(generator, words):
    """A state of torch's generator whose next words these are, at most 623."""
    state = generator.get_state().numpy()
    state[8:12] = np.frombuffer(np.int32(STATE_WORDS).tobytes(), np.uint8)  # left
    state[16:24] = np.frombuffer(np.uint64(1).tobytes(), np.uint8)  # next
    state[32 : 32 + 8 * len(words)].view(np.uint64)[...] = _untempered(words)
    return state


def test_every_normal_is_that_of_torch(torch, sweep):
    if torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        pytest.skip("torch computes its normals in another way here")
    generator = torch.Generator().manual_seed(0)
    most = 608  # of the 623 words, a multiple of 16
    state = _torch_state(generator, np.zeros(most, np.uint32))
    handed = torch.from_numpy(state)
    for words in sweep():
        expected = np.empty(len(words), np.float32)
        untempered, drawn = _untempered(words), torch.from_numpy(expected)
        for start in range(0, len(words), most):
            some = untempered[start : start + most]
            state[32 : 32 + 8 * len(some)].view(np.uint64)[...] = some
            generator.set_state(handed)
            drawn[start : start + len(some)].normal_(generator=generator)
        assert _ours(words).tobytes() == expected.tobytes()


@pytest.mark.slow
def test_every_normal_of_the_native_library_is_that_of_numpy(built_library, sweep):
    """With the instructions of each level that this machine has."""
    levels = [dataclasses.replace(built_library, level=level) for level in range(built_library.level + 1)]
    twisters = [NativeTwister(library, 0) for library in levels]
    got = np.empty(2 * PART, np.float32)
    for words in sweep():
        expected, untempered = _ours(words).tobytes(), _untempered(words)
        for twister in twisters:
            for start in range(0, len(words), STATE_WORDS):
                some = untempered[start : start + STATE_WORDS]
                unused = STATE_WORDS - len(some)
                twister._state[unused:STATE_WORDS], twister._state[STATE_WORDS] = some, unused
                twister.fill_normals(got[start : start + len(some)])
            assert got.tobytes() == expected
