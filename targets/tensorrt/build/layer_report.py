"""Reads the structure of an engine out of the log of its build, where no GPU is needed to have it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffoundry.runtime.errors import EngineError

__all__ = ["KNOWN_VERSIONS", "FusedLayer", "Memory", "interesting", "read_layers", "read_memory"]

KNOWN_VERSIONS = ("1.7",)
"""Versions of TensorRT for RTX whose log these expressions were written from; no other one is read."""

_LAYERS = "Layers:\nName:"

_ROW = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, StreamId: \d+"
    r"(?:, EventId: \d+)?, Metadata: (?P<metadata>.*)$"
)

_SERIAL = re.compile(r"_myl(?P<profile>\d+)_\d+$")
_PROFILE = re.compile(r" \[profile \d+\]")
_DATATYPE = re.compile(r"Datatype: (\w+)")
_ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\](?=\[|$)")

_MEMORY = {
    "scratch": "Max Scratch Memory",
    "activations": "Total Activation Memory",
    "weights": "Total Weights Memory",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedLayer:
    """One layer of a built engine.

    Attributes:
        profile: Number of the optimization profile: each is compiled separately.
        name: Such as "_gemm_mha_v2", without its serial number.
        kind: "gemm", "correlation" (a convolution), "kgen" (generated kernel), "runtime_fusion", ...
        inputs: Types of its inputs, such as "Half" and "Int8".
        constants: Types of its weights.
        outputs: Types of its outputs.
        nodes: Names of the ONNX nodes that went into it.
    """

    profile: int
    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """GPU memory of an engine at its largest sizes.

    Attributes:
        scratch: Bytes that the layers share for their own purposes, one number a profile.
        activations: Bytes between the layers, likewise.
        weights: Bytes.
    """

    scratch: tuple[int, ...]
    activations: tuple[int, ...]
    weights: int


def interesting(message: str) -> bool:
    """Return True for messages of the log that the functions here read."""
    return message.startswith(_LAYERS) or any(words in message for words in _MEMORY.values())


def read_layers(messages: Sequence[str], version: str) -> tuple[FusedLayer, ...]:
    """The layers of the engine.

    Args:
        messages: The log at its most talkative, from a build with detailed profiling verbosity.
        version: Of the library.

    Raises:
        EngineError: Another version, no such message, or one of another form: nothing is guessed.
    """
    _check_version(version)
    message = next((message for message in messages if message.startswith(_LAYERS)), None)
    if message is None:
        raise _unreadable(version, "got no message with the layers")
    rows = [line for line in message.partition("\n\n")[0].splitlines() if line.startswith("Name: ")]
    return tuple(_layer(row, version) for row in rows)


def read_memory(messages: Iterable[str], version: str) -> Memory:
    """The memory that the engine needs; raises as `read_layers`."""
    _check_version(version)
    text = "\n".join(message for message in messages if not message.startswith(_LAYERS))
    found = {}
    for name, words in _MEMORY.items():
        found[name] = tuple(int(number) for number in re.findall(rf"{words}: (\d+) bytes", text))
        if not found[name]:
            raise _unreadable(version, f"got no message with {words!r}")
    return Memory(scratch=found["scratch"], activations=found["activations"], weights=found["weights"][0])


def _check_version(version: str) -> None:
    if not version.startswith(tuple(f"{known}." for known in KNOWN_VERSIONS)):
        raise _unreadable(version, "the form of its log is not known")


def _layer(row: str, version: str) -> FusedLayer:
    match = _ROW.match(row)
    if match is None:
        raise _unreadable(version, f"cannot make out the layer {row[:160]!r}")
    serial = _SERIAL.search(match["name"])
    if serial is None:
        raise _unreadable(version, f"got the layer {match['name']!r} without a serial number")
    types = {part: tuple(_DATATYPE.findall(match[part])) for part in ("inputs", "constants", "outputs")}
    return FusedLayer(
        profile=int(serial["profile"]),
        name=_PROFILE.sub("", match["name"][: serial.start()]),
        kind=match["kind"],
        nodes=tuple(_ORIGIN.findall(_PROFILE.sub("", match["metadata"]))),
        **types,
    )


def _unreadable(version: str, what: str) -> EngineError:
    return EngineError(
        f"build log of TensorRT for RTX {version}: {what}, expected the form of {' or '.join(KNOWN_VERSIONS)}; "
        f"the engine's structure cannot be read from this version"
    )
