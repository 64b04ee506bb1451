"""The reader against the safetensors package's own files, and against files that mean harm."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.safetensors import Safetensors

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


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
    "nothing": (b"", {}, "its header would have 0 bytes of 8|its header is no JSON"),
    "no json": (b"{", {}, "its header is no JSON"),
    "nested": (b'{"a":' * 100_000, {}, "its header is no JSON"),
    "a list": (b"[]", {}, "its header is no object"),
    "longer than the file": ({}, {"length": 2**40}, "its header would have 1099511627776 bytes of"),
    "longer than allowed": ({}, {"length": 2**63}, "its header would have"),
    "twice": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        {"data": bytes(4)},
        "a name occurs twice",
    ),
    "beyond": ({"a": entry(0, 8, (2,))}, {"data": bytes(4)}, "its tensors end at byte .*, the file at"),
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
    "type": ({"a": entry(0, 4, dtype="F8_E4M3")}, {"data": bytes(4)}, "has the type 'F8_E4M3', which is not read"),
    "no entry": ({"a": 3}, {}, "has the type 'None', which is not read"),
    "metadata": ({"__metadata__": {"a": 1}}, {}, "__metadata__ is no map of strings"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path, case):
    header, more, message = HOSTILE[case]
    path = write(tmp_path / "x.safetensors", header, **more)
    with pytest.raises(InputError, match=rf"x\.safetensors: is no safetensors file: .*({message})"):
        Safetensors(path)


def test_short_and_missing_files(tmp_path):
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(InputError, match="is no safetensors file: its header would have"):
        Safetensors(tmp_path / "short")
    with pytest.raises(InputError, match="missing: cannot be read"):
        Safetensors(tmp_path / "missing")
