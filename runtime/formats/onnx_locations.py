"""Names the files beside an ONNX graph that hold its weights, without a library for ONNX."""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.formats.wire import fields

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
        for number, _, first, last, measured in fields(data, start, end):
            inner = _MESSAGES[kind].get(number) if measured else None
            if inner == "entry":
                entry = {one.number: data[one.first : one.last] for one in fields(data, first, last) if one.measured}
                if entry.get(1) == _KEY:
                    yield entry.get(2, b"").decode("utf-8", "surrogateescape")
            elif inner is not None and data.find(_KEY, first, last) >= 0:
                waiting.append((inner, first, last))
