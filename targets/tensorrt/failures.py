"""Turns the errors that TensorRT logs into one sentence with a hint."""

import re
from collections.abc import Sequence

from diffoundry.targets.tensorrt.build.job import Failure

__all__ = ["advice", "build_failure", "clean", "parse_failure"]

_ECHO = re.compile(r"catchCudaError.*cudaError 35")
"""After an error of its own, the library often asks the driver for one more and logs that there is none."""

_POSITION = re.compile(r"\s*:?\s*\bIn \w+ at \S+?:\d+")
"""Place in NVIDIA's sources where the error was raised."""

_PREFIX = re.compile(r"^\w+::\w+: Error Code (?P<code>\d+): (?P<kind>[\w ]+?) \((?P<text>.*)\)$", re.DOTALL)

_WRAPPED = re.compile(r"^\[[\w.]+:\d+: \w+\] ")

_HINTS = (
    (
        r"HW-specific datatypes|Cannot compile operation .* for",
        "build for later GPUs only (--compute-capabilities), or choose another --precision",
    ),
    (r"zero point is not supported", "quantize symmetrically: zero points of 0, int8 instead of uint8"),
    (r"must have same input types", "the graph mixes types, and TensorRT casts nothing implicitly: cast one of them"),
    (r"Plugin not found", "the operator is not of the ONNX standard: export the graph without it"),
    (r"[Aa]ntialias", "TensorRT resizes without antialiasing only"),
    (r"within workspace limit|[Oo]ut ?[Oo]f ?[Mm]emory", "allow smaller sizes or fewer rows, or use a larger GPU"),
    (r"graph_jit.cpp:\d+: CHECK\(status == CUDA_SUCCESS\)", "it needs an NVIDIA driver: build on a GPU machine"),
    (r"libnvinfer_lean", "the lean runtime is missing: pip install tensorrt-lean"),
    (r"cudaError 35|CUDA initialization", "there is no NVIDIA driver on this machine: build on a GPU machine"),
    (r"Compute capability is invalid", "name GPUs that this library builds for (--compute-capabilities)"),
    (r"not supported|[Uu]nsupported", "'polygraphy inspect capability' lists what TensorRT does not take"),
)

_REPORT = "'polygraphy debug reduce' finds the smallest graph that fails; report that one"


def clean(messages: Sequence[str]) -> list[str]:
    """Errors of the library's log without its echoes, its own source positions and repetitions."""
    found = []
    for message in messages:
        lines = [line for line in message.strip().splitlines() if not _ECHO.search(line)]
        text = " ".join(line.strip() for line in lines)
        inner = _PREFIX.match(text)
        text = _POSITION.sub("", _WRAPPED.sub("", inner["text"]) if inner else text).strip()
        if text and text not in found:
            found.append(text)
    return found


def parse_failure(node: str, operator: str, code: str, function: str, description: str) -> Failure:
    """Why the parser refused a node.

    Args:
        node: `ParserError.node_name`, empty where the node has none.
        operator: `ParserError.node_operator`.
        code: Name of `ParserError.code`, such as "UNSUPPORTED_NODE".
        function: `ParserError.func`: which check failed.
        description: `ParserError.desc`, often only the condition in NVIDIA's source.
    """
    said = description.partition(' && "')[2].rstrip('"') or " ".join(clean(description.splitlines()))
    said = said.removeprefix("Assertion failed: ")
    if said in ("", "false"):
        said = f"{code.replace('_', ' ').lower()} ({function})"
    return Failure(message=said, hint=advice(f"{code} {said}"), node=node or None, operator=operator or None)


def build_failure(messages: Sequence[str]) -> Failure:
    """Why the builder gave no engine.

    Args:
        messages: The errors that it logged.
    """
    said = clean(messages)
    text = "; ".join(said) or "the builder gave no engine and logged no error"
    node = re.match(r"(?P<node>[\w./]+): ", text)
    cancelled = any("BuildCanceled" in message for message in messages)
    return Failure(
        message=text,
        hint=advice(text),
        node=node["node"] if node and "/" in node["node"] else None,
        cancelled=cancelled,
    )


def advice(text: str, otherwise: str = _REPORT) -> str:
    """Return what to do about a message of the library, or `otherwise`."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, text)), otherwise)
