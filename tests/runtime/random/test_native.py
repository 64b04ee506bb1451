"""The native library: the same stream as NumPy's code at every level of instructions, found, told of, and refused."""

import ctypes
import threading

import numpy as np
import pytest

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.random import TorchCpuGenerator, describe_random_numbers
from diffoundry.runtime.random import native as module
from diffoundry.runtime.random.twister import NativeTwister, NumpyTwister

VARIABLE = "DIFFOUNDRY_NATIVE_RANDOM"


@pytest.fixture
def fresh(monkeypatch):
    """The search for the library, not yet done; what this test finds is forgotten after it."""
    module._search.cache_clear()
    monkeypatch.delenv(VARIABLE, raising=False)
    yield monkeypatch
    module._search.cache_clear()


def _same_state(ours, theirs):
    np.testing.assert_array_equal(ours.state[0], theirs.state[0])
    assert ours.state[1] == theirs.state[1]


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_words_and_states_are_those_of_numpy(native, seed):
    """Also across the batches of 624."""
    ours, theirs = NativeTwister(native, seed), NumpyTwister(seed)
    _same_state(ours, theirs)
    for count in (1, 3, 620, 0, 624, 1, 5000, 17):
        np.testing.assert_array_equal(ours.words(count), theirs.words(count))
        _same_state(ours, theirs)


@pytest.mark.parametrize("drawn", [0, 1, 7, 600, 623])
def test_normals_are_those_of_numpy(native, drawn):
    """From any place in a batch; around the sizes that are transformed at once."""
    ours, theirs = NativeTwister(native, 9), NumpyTwister(9)
    ours.words(drawn)
    theirs.words(drawn)
    for count in (16, 0, 32, 1008, 1024, 1040, 16_384, 16_400, 50_000):
        got, expected = np.empty(count, np.float32), np.empty(count, np.float32)
        ours.fill_normals(got)
        theirs.fill_normals(expected)
        assert got.tobytes() == expected.tobytes()
        _same_state(ours, theirs)


def test_nothing_is_written_beside_the_array(native):
    guarded = np.full(16 * 70 + 2, 7, np.float32)
    NativeTwister(native, 0).fill_normals(guarded[1:-1])
    assert guarded[0] == guarded[-1] == 7


def test_generators_in_threads_do_not_disturb_each_other(backend):
    """The native library lets go of the interpreter; NumPy's code has memory for each thread."""
    expected = [TorchCpuGenerator(seed).randn((200_000,)).tobytes() for seed in range(4)]
    got = [b""] * 4

    def draw(seed):
        got[seed] = TorchCpuGenerator(seed).randn((200_000,)).tobytes()

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_a_folder_that_is_named_is_used(built_library, fresh):
    fresh.setenv(VARIABLE, str(built_library.path.parent))
    assert module.native_library().path == built_library.path
    assert describe_random_numbers() == (
        f"native code, {('portable code', 'AVX2', 'AVX-512')[built_library.level]} ({built_library.path})"
    )
    assert isinstance(TorchCpuGenerator(0)._twister, NativeTwister)


def test_it_can_be_turned_off(fresh):
    fresh.setenv(VARIABLE, "off")
    assert module.native_library() is None
    assert describe_random_numbers() == "NumPy (DIFFOUNDRY_NATIVE_RANDOM is off)"
    assert isinstance(TorchCpuGenerator(0)._twister, NumpyTwister)


def test_the_library_is_found_in_the_package(built_library, fresh, tmp_path):
    fresh.setattr("diffoundry.__path__", [str(tmp_path)])
    assert describe_random_numbers() == "NumPy (the native library is not installed)"
    folder = tmp_path / "runtime" / "random"
    folder.mkdir(parents=True)
    (folder / built_library.path.name).write_bytes(built_library.path.read_bytes())
    module._search.cache_clear()
    assert module.native_library().path.parent == folder


def test_a_named_folder_without_library_is_refused(fresh, tmp_path):
    fresh.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(
        ConfigError, match=rf"{VARIABLE} is '{tmp_path}': the native library is not installed; expected"
    ):
        TorchCpuGenerator(0)


def test_a_broken_library_is_skipped_and_described(fresh, tmp_path):
    fresh.setattr("diffoundry.__path__", [str(tmp_path)])
    folder = tmp_path / "runtime" / "random"
    folder.mkdir(parents=True)
    (folder / module._LIBRARY).write_bytes(b"no library")
    assert describe_random_numbers().startswith(f"NumPy ({folder / module._LIBRARY} cannot be loaded (")
    assert module.native_library() is None


class _Other:
    """A library of the same names that is not ours."""

    def __init__(self, abi):
        self.diffoundry_random_abi = lambda: abi
        self.diffoundry_random_level = lambda: 0
        for name in module._SIGNATURES:
            setattr(self, name, lambda *arguments: None)


@pytest.mark.parametrize(("abi", "message"), [(2, "has interface 2, expected 1"), (1, "draws wrong numbers")])
def test_a_library_of_another_version_or_wrong_numbers_is_passed_over(monkeypatch, tmp_path, abi, message):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: _Other(abi))
    assert module._load(tmp_path / "x.so") == f"{tmp_path / 'x.so'} {message}"
