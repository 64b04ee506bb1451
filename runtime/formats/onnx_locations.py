"""Names the files beside an ONNX graph that hold its weights, without a library for ONNX.

Reads the wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding) as far as needed.
"""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from diffoundry.runtime.errors import BundleError

__all__ = ["check_graph_files", "external_files"]

_GRAPHS = {1: "node", 5: "tensor", 15: "sparse"}

_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": _GRAPHS,
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Message of onnx.proto to its fields that may lead to an external tensor, and their messages."""

_KEY = b"location"

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
"""Wire types. Groups (3 and 4) occur nowhere in ONNX."""


def check_graph_files(graph: Path, name: str, files: Sequence[str]) -> None:
    """Refuse a graph whose weights are in files that the manifest does not list for it.

    Args:
        graph: The graph.
        name: Its name in the manifest.
        files: Files of the manifest that it may read.

    Raises:
        BundleError: As said.
        ValueError: The file is no ONNX graph, which the engine's library has its own words for.
    """
    folder = PurePosixPath(name).parent
    if not name.endswith(".onnx"):
        raise BundleError(f"graph {graph}: got the name {name!r}, expected the ending .onnx; do not trust this bundle")
    for location in sorted(external_files(graph)):
        if (folder / location).as_posix() not in files:
            raise BundleError(
                f"graph {graph}: its weights are in the file {location!r}, which the manifest does not list for it; "
                f"do not trust this bundle"
            )


def external_files(graph: Path) -> frozenset[str]:
    """Return the locations of a graph's external tensors, as they are written in it.

    Raises:
        ValueError: The file is no ONNX graph.
    """
    try:
        with graph.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return frozenset(_locations(data))
    except (ValueError, IndexError) as error:
        raise ValueError(f"{graph.name} is no ONNX graph") from error


def _locations(data: mmap.mmap) -> Iterator[str]:
    waiting = [("model", 0, len(data))]
    while waiting:
        kind, start, end = waiting.pop()
        for number, first, last in _fields(data, start, end):
            inner = _MESSAGES[kind].get(number)
            if inner == "entry":
                entry = {number: data[a:b] for number, a, b in _fields(data, first, last)}
                if entry.get(1) == _KEY:
                    yield entry.get(2, b"").decode("utf-8", "surrogateescape")
            elif inner is not None and data.find(_KEY, first, last) >= 0:
                waiting.append((inner, first, last))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, begin and end of the fields with a length; the others are stepped over.

    Raises:
        ValueError: The bytes are no message.
        IndexError: The file ends before the message.
    """
    while start < end:
        tag, start = _varint(data, start)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            size, start = _varint(data, start)
            yield number, start, start + size
            start += size
        elif wire == _VARINT:
            _, start = _varint(data, start)
        elif wire in (_FIXED32, _FIXED64):
            start += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
    if start != end:
        raise ValueError("a field ends behind its message")


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value, shift = 0, 0
    while shift < 70:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise ValueError("a number has more than ten bytes")
