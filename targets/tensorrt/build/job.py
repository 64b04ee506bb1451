"""Messages between a target and the process that builds an engine: a job one way, a result the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FORMAT_VERSION", "BuildJob", "BuildResult", "Failure", "ProfileShapes"]

FORMAT_VERSION = 2
"""Version of a `BuildJob` on disk, the recipe of a pending engine in a bundle. 1 called the target `flavour`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileShapes:
    """One optimization profile.

    Attributes:
        name: For messages.
        shapes: Input to [smallest, preferred, largest] shape; inputs without free dimensions are left out.
    """

    name: str
    shapes: Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildJob:
    """Everything that decides what is built.

    Attributes:
        format_version: Of this record.
        target: "tensorrt" or "tensorrt-rtx".
        graph: The ONNX file, its external data beside it. Relative to the folder of the record when that is a file.
        plan: The engine to write, likewise.
        profiles: At least one where the graph has free dimensions.
        compute_capabilities: GPUs to build for, 89 for 8.9; none for the one that is there.
        flags: Names of `BuilderFlag`.
        refittable: Weights that can be changed later, by their names in the graph.
        timing_cache: File with the times of kernels, or None.
    """

    format_version: int = FORMAT_VERSION
    target: str
    graph: str
    plan: str
    profiles: tuple[ProfileShapes, ...]
    compute_capabilities: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    refittable: tuple[str, ...] = ()
    timing_cache: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why there is no engine.

    Attributes:
        message: Message of the library, without repetitions.
        hint: Advice for the user.
        node: Name of the ONNX node, or None.
        operator: Its operator, or None.
        cancelled: True if it was stopped by the caller.
    """

    message: str
    hint: str
    node: str | None = None
    operator: str | None = None
    cancelled: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """Result of a job.

    Attributes:
        failure: Why there is no engine, or None.
        metadata: Seconds, memory, and the structure that the build log describes; for the manifest.
        warnings: Warnings of the library, each once.
    """

    failure: Failure | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
