"""Sums of files: those of hashlib, whole and in parts, and every change found."""

import hashlib
from dataclasses import replace

import pytest

from diffoundry.runtime.bundle import checksums


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "PART_BYTES", 1000)
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(i * i % 251 for i in range(3500)))
    return path


def test_parts_are_the_sums_of_slices(file):
    data = file.read_bytes()
    spec = checksums.describe_file(file)
    assert (spec.size, spec.sha256) == (3500, hashlib.sha256(data).hexdigest())
    assert spec.parts == tuple(hashlib.sha256(data[i : i + 1000]).hexdigest() for i in range(0, 3500, 1000))


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_small_files_have_none(file, size):
    file.write_bytes(b"x" * size)
    assert checksums.describe_file(file).parts == ()


@pytest.mark.parametrize("place", [0, 999, 1000, 2500, 3499])
def test_a_changed_byte_is_found_in_every_part(file, place):
    spec = checksums.describe_file(file)
    assert checksums.changed(file, spec) is None
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    assert checksums.changed(file, spec) == "other SHA-256 sums of its parts"
    assert checksums.changed(file, replace(spec, parts=())).startswith("SHA-256 ")


def test_parts_in_another_order_are_found(file):
    spec = checksums.describe_file(file)
    data = file.read_bytes()
    file.write_bytes(data[1000:2000] + data[:1000] + data[2000:])
    assert checksums.changed(file, spec) is not None
