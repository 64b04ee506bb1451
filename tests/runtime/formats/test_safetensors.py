"""The reader against the safetensors package's own files, and against files that mean harm."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.safetensors import Safetensors

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def test_every_type_is_read_as_it_was_written(tmp_path):
    torch.manual_seed(0)
    tensors = {str(dtype): (torch.randn(3, 5) * 100).to(dtype) for dtype in TYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "whole": torch.arange(6)}
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    file = Safetensors(tmp_path / "x.safetensors")
    assert set(file) == set(tensors)
    assert file.metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        assert file.entries[name].shape == tuple(tensor.shape)
        if name != "whole":
            np.testing.assert_array_equal(file.read(name), tensor.float().numpy())
    np.testing.assert_array_equal(file.stored("whole"), np.arange(6))
    with pytest.raises(InputError, match="tensor 'whole' is I64, expected a floating type"):
        file.read("whole")


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


HOSTILE = {
    "nothing": (b"", {}, "its header is no JSON"),
    "no json": (b"{", {}, "its header is no JSON"),
    "nested": (b'{"a":' * 100_000, {}, "its header is no JSON"),
    "a list": (b"[]", {}, "its header is no object"),
    "longer than the file": ({}, {"length": 2**40}, "its header would have 1099511627776 bytes of"),
    "longer than allowed": ({}, {"length": 2**63}, "its header would have"),
    "no header": (b"\xff" * 40, {"length": 2**20}, "its header would have 1048576 bytes of 48"),
    "twice": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        {"data": bytes(4)},
        "a name occurs twice",
    ),
    "overlap": (
        {"a": entry(0, 4), "b": entry(0, 4)},
        {"data": bytes(4)},
        "tensor 'b' begins at byte .*, expected",
    ),
    "hole": ({"a": entry(4, 8)}, {"data": bytes(8)}, "tensor 'a' begins at byte .*, expected"),
    "rest": ({"a": entry(0, 4)}, {"data": bytes(8)}, "its tensors end at byte"),
    "negative": ({"a": entry(-4, 0)}, {"data": bytes(4)}, "tensor 'a' has no shape and offsets"),
    "overflow": ({"a": entry(0, 4, (2**62, 2**62))}, {"data": bytes(4)}, "tensor 'a' has 4 bytes, expected"),
    "too many axes": ({"a": entry(0, 4, (1,) * 9)}, {"data": bytes(4)}, "tensor 'a' has no shape and offsets"),
    "fractions": ({"a": entry(0, 4, (1.0,))}, {"data": bytes(4)}, "tensor 'a' has no shape and offsets"),
    "type": ({"a": entry(0, 4, dtype="C64")}, {"data": bytes(4)}, "has the type 'C64', which is not read"),
    "no entry": ({"a": 3}, {}, "has the type 'None', which is not read"),
    "metadata": ({"__metadata__": {"a": 1}}, {}, "__metadata__ is no map of strings"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path, case):
    header, more, message = HOSTILE[case]
    path = write(tmp_path / "x.safetensors", header, **more)
    with pytest.raises(InputError, match=rf"x\.safetensors: is no safetensors file: .*({message})"):
        Safetensors(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_float8_number(tmp_path, dtype):
    stored = torch.arange(256).to(torch.uint8).view(dtype)
    save_file({"a": stored}, tmp_path / "x.safetensors")
    read = Safetensors(tmp_path / "x.safetensors").read("a")
    np.testing.assert_array_equal(read, stored.float().numpy())


OTHER_KINDS = {
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438167540\n",
        r"is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder",
    ),
    "page": (b"\n<!DOCTYPE html>\n<html><head><title>Sign in", "is a web page, not the file itself; download the file"),
    "old page": (b"<HTML><BODY>", "is a web page"),
    "denied": (b"Access to model org/name is restricted.", "is a text file that begins with 'Access to model org/name"),
    "script": (b"import os\n" * 99, "is a text file that begins with 'import os'; download the file again"),
    "cut text": ("prix : 3 €".encode()[:-1], "is a text file that begins with 'prix : 3"),
    "nothing": (b"", "is empty; download it again"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(90), "is a GGUF file, whose quantized weights are not supported; expected"),
    "zip": (
        b"PK\x03\x04" + bytes(90),
        "is a pickled file, which can run code when read, and is refused; expected safet",
    ),
    "pickle": (b"\x80\x02}q\0" + bytes(90), "is a pickled file, which can run code when read"),
    "short": (b"\x08\0\0", r"is cut off: it has 3 bytes, expected 16 or more; the download is incomplete"),
}


@pytest.mark.parametrize("case", OTHER_KINDS)
def test_files_of_another_kind_are_named(tmp_path, case):
    content, message = OTHER_KINDS[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.safetensors: {message}"):
        Safetensors(path)


def test_files_that_are_cut_off(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(100), "b": torch.zeros(9)}, path)
    whole = path.read_bytes()
    for keep in (len(whole) - 1, len(whole) - 399, 60, 9):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match=rf"is cut off: it has {keep} bytes, expected \d+ or more; the download"):
            Safetensors(path)


def test_block_formats_are_called_quantized(tmp_path):
    for dtype in ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ"):
        path = write(tmp_path / "x.safetensors", {"a": entry(0, 1, dtype=dtype)}, bytes(1))
        with pytest.raises(
            InputError, match=f"tensor 'a' has the quantized type {dtype}, which is not supported; down"
        ):
            Safetensors(path)


def test_missing_files_and_links_to_nowhere(tmp_path):
    with pytest.raises(InputError, match="missing: cannot be read"):
        Safetensors(tmp_path / "missing")
    (tmp_path / "link").symlink_to("../../blobs/00ff")
    with pytest.raises(
        InputError, match=r"link: is a link to \.\./\.\./blobs/00ff, which does not exist; the download"
    ):
        Safetensors(tmp_path / "link")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        Safetensors(tmp_path)
