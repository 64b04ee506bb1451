"""Symbolic sizes: read, written, turned into numbers."""

import onnx_ir as ir
import pytest

from diffoundry.runtime.bundle.dims import Size, parse_size, size_of


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("batch", Size("batch", 1, up=False)),
        ("height/8", Size("height", 8, up=False)),
        ("(height+15)//16", Size("height", 16, up=True)),
    ],
)
def test_what_is_read_is_written_again(text, size):
    assert parse_size(text) == size
    assert str(size) == text


@pytest.mark.parametrize("text", ["", "height/0", "(height+3)//16", "(height+15)/16", "2*height", "height//8"])
def test_other_forms_are_symbols_of_their_own(text):
    assert parse_size(text) == Size(text, 1, up=False)


@pytest.mark.parametrize("height", range(8, 200, 8))
def test_onnx_reckons_the_same(height):
    for text in ("height", "height/8", "(height+15)//16", "(height+63)//64"):
        assert size_of(text, {"height": height}) == ir.SymbolicDim(text).evaluate({"height": height})


def test_what_has_no_number_is_none():
    assert size_of("height/16", {"height": 72}) is None
    assert size_of("width", {"height": 72}) is None
    assert size_of(7, {}) == 7
