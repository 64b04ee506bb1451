"""Runs the functions of a component: chunks one after another, and the size that fits the feeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.errors import BundleError, EngineError
from diffoundry.targets.coreml.names import clean_name

__all__ = ["PackageFunction", "PackageFunctions", "package_folders"]

Call = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs a function on arrays of exactly the types and shapes that it declares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageFunction:
    """One function of one package.

    Attributes:
        label: Name in errors.
        inputs: As the package declares them.
        outputs: Likewise.
        call: Runs it.
    """

    label: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    call: Call


class PackageFunctions:
    """The functions of one component, and how the runtime's tensors become theirs.

    A part can run once everything it reads is there in the shape that it declares. So sizes find themselves, and so do
    chunks: what the second one reads only the first one gives. Packages know "hidden_states.0" as "hidden_states_0".
    """

    def __init__(self, parts: Sequence[PackageFunction], outputs: Sequence[TensorSpec]) -> None:
        self._functions = tuple(parts)
        self._outputs = tuple(outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the parts that fit, until every output is there.

        Args:
            feeds: Tensors as the manifest describes them.

        Raises:
            EngineError: No part takes these sizes; the message lists those there are.
        """
        values = {clean_name(name): array for name, array in feeds.items()}
        waiting = list(self._functions)
        while missing := [spec.name for spec in self._outputs if clean_name(spec.name) not in values]:
            ready = next((part for part in waiting if self._arguments(part, values) is not None), None)
            if ready is None:
                raise EngineError(self._refusal(feeds, missing))
            waiting.remove(ready)
            arguments = self._arguments(ready, values)
            assert arguments is not None
            values.update(ready.call(arguments))
        return {spec.name: np.array(values[clean_name(spec.name)], dtype=spec.dtype) for spec in self._outputs}

    def _arguments(self, part: PackageFunction, values: Mapping[str, Array]) -> dict[str, Array] | None:
        """The inputs of a part, or None when one is missing or of another size."""
        arguments = {}
        for spec in part.inputs:
            array = _adapted(values[spec.name], spec) if spec.name in values else None
            if array is None:
                return None
            arguments[spec.name] = array
        return arguments

    def _refusal(self, feeds: Mapping[str, Array], missing: Sequence[str]) -> str:
        shapes = {name: array.shape for name, array in feeds.items()}
        have = "; ".join(
            f"{part.label}: " + ", ".join(f"{spec.name} {spec.shape}" for spec in part.inputs)
            for part in self._functions
        )
        return (
            f"Core ML packages: got inputs of shape {shapes}, expected those of one of: {have} (for "
            f"{', '.join(missing)}); ask for a size that the bundle was made for, or export it again with --buckets"
        )


def _adapted(array: Array, spec: TensorSpec) -> Array | None:
    """A tensor of the runtime in the layout and type of a package, or None when it has another size.

    Apple's layout has the condition (B, S, C) as (B, C, 1, S), the timestep (1,) as (B,), and token ids in floats.
    """
    if len(spec.shape) == 4 and array.ndim == 3:
        array = array.transpose(0, 2, 1)[:, :, None, :]
    elif len(spec.shape) == 1 and array.shape == (1,):
        array = np.broadcast_to(array, tuple(int(size) for size in spec.shape))
    if array.shape != spec.shape:
        return None
    return np.ascontiguousarray(array, dtype=spec.dtype)


def package_folders(path: Path, spec: EngineSpec | None) -> tuple[Path, ...]:
    """The folders `*.mlpackage` of an engine, in the order of its files.

    Args:
        path: Its first file, `<component>/<name>.mlpackage/Manifest.json`.
        spec: Its manifest entry, or None when there is only the one package.

    Raises:
        BundleError: A package holds files that the manifest does not list.
    """
    if spec is None:
        return (path.parent,)
    files = [PurePosixPath(file) for file in spec.files]
    root = path.parents[len(files[0].parts) - 1]
    folders = tuple((root / file).parent for file in files if file.name == "Manifest.json")
    for folder in folders:
        _refuse_unlisted(folder, root, set(spec.files))
    return folders


def _refuse_unlisted(folder: Path, root: Path, listed: set[str]) -> None:
    """Refuse a package with more than the manifest lists: Core ML reads what the package itself names.

    Raises:
        BundleError: As said.
    """
    for found in folder.rglob("*"):
        name = found.relative_to(root).as_posix()
        if name not in listed and (found.is_symlink() or not found.is_dir()):
            raise BundleError(
                f"engine {folder}: holds the file {name!r}, which the manifest does not list; do not trust this bundle"
            )
