"""Makes the engines of a bundle again from its portable graphs and compares the files."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx_ir as ir

from diffoundry.exporter.recipe import tool_versions
from diffoundry.exporter.steps.lower import write_engine
from diffoundry.exporter.verify.report.report import Check, holds
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.manifest import Manifest
from diffoundry.runtime.bundle.specs import ComponentSpec, EngineSpec, Variant
from diffoundry.runtime.engines.plugins import list_plugins
from diffoundry.runtime.errors import DiffoundryError

__all__ = ["RemadeEngines", "copy_inputs", "remake_engines"]

_NUMBERED = re.compile(rb"\b([A-Z][A-Za-z]*)_\d+(?![0-9A-Za-z])")
"""Name that OpenVINO gives to a node without one, such as Constant_7967."""

_SHOWN = 3
"""Differences that a message lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemadeEngines:
    """Result for the engines of one variant.

    Attributes:
        checks: One for each component; none where the engines could not be made again.
        note: The reason why they could not, or None.
    """

    checks: tuple[Check, ...] = ()
    note: str | None = None


def remake_engines(bundle: Bundle, target: str, precision: str) -> RemadeEngines:
    """Lower every component again for one variant and compare the engines' files byte for byte.

    A change that is too small for the gates of its precision is found by this: an attribute, a weight of an int8 graph,
    a layer that no longer takes adapters. It needs the library versions that the bundle was made with.

    Args:
        bundle: The bundle.
        target: The variant's target.
        precision: The variant's precision.

    Raises:
        BundleError: A file was changed since the export.
    """
    manifest = bundle.manifest
    if manifest is None:
        return RemadeEngines()
    name = f"{target} {precision}"
    reason = _obstacle(manifest, target, precision)
    if reason is not None:
        return RemadeEngines(note=f"{name}: its engines were not made again from the portable graphs: {reason}")
    variant = next(v for v in manifest.recipe.variants if (v.target, v.precision) == (target, precision))
    return RemadeEngines(checks=tuple(_remake(bundle, manifest, one, variant) for one in bundle.components))


def _obstacle(manifest: Manifest, target: str, precision: str) -> str | None:
    """Return why engines made here may differ from those of the bundle, or None."""
    plugin = next((plugin for plugin in list_plugins() if plugin.name == target), None)
    if plugin is None:
        return "no target of this name is installed"
    if not plugin.reproducible:
        return f"{target} makes other bytes every time"
    made = [(name, value) for name, value in manifest.built_with.items() if name in tool_versions()]
    for component in manifest.components.values():
        for engine in component.engines:
            if (engine.target, engine.precision) == (target, precision):
                made += engine.built_with.items()
    for name, wanted in made:
        found = _version(name)
        if found != wanted:
            return f"they were made with {name} {wanted}, here is {found or 'none'}"
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _remake(bundle: Bundle, manifest: Manifest, component: str, variant: Variant) -> Check:
    """Lower a component in a folder that holds only what lowering reads, and compare the files that appear."""
    spec = manifest.components[component]
    subject = f"{component}, {variant.target} {variant.precision}"
    mine = next(e for e in spec.engines if (e.target, e.precision) == (variant.target, variant.precision))
    first = next(other for other in manifest.recipe.variants if other.target == variant.target)
    with tempfile.TemporaryDirectory(prefix="diffoundry-verify-") as folder:
        copy_inputs(bundle, manifest, spec, Path(folder))
        try:
            made = write_engine(
                component=component,
                role=spec.role,
                variant=variant,
                first=variant == first,
                dims=manifest.recipe.dims,
                buckets=manifest.recipe.buckets,
                quantization=manifest.recipe.quantization.get(variant.precision),
                partition=manifest.recipe.partition,
                split=manifest.recipe.split,
                folder=folder,
                phase=lambda _: nullcontext(),
                progress=lambda _: None,
            )
        except DiffoundryError as error:
            return holds("files", subject, "made again", str(error))
        return holds("files", subject, "made again", _difference(bundle, Path(folder), mine, made))


def copy_inputs(bundle: Bundle, manifest: Manifest, spec: ComponentSpec, folder: Path) -> None:
    """Copy the portable graph, and the files that belong to no component: ranges of calibration, configs.

    Copies, not links: onnx_ir reads no external data through links.
    """
    owned = {file for component in manifest.components.values() for file in component.all_files}
    for file in (*spec.graph, *(name for name in manifest.files if name not in owned)):
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.file(file), place)


def _difference(bundle: Bundle, folder: Path, mine: EngineSpec, made: EngineSpec) -> str | None:
    ours, theirs = (to_json(replace(spec, metadata={}, built_with={})) for spec in (mine, made))
    fields = [name for name in theirs if ours[name] != theirs[name]]
    if fields:
        first = fields[0]
        return f"manifest, field {first} of the engine: {_short(ours[first])}, expected {_short(theirs[first])}"
    manifest = bundle.manifest
    assert manifest is not None
    wrong = [
        file
        for file in made.all_files
        if sha256_of(folder / file) != manifest.files[file].sha256
        and not (file.endswith(".xml") and _numberless(folder / file) == _numberless(bundle.file(file)))
    ]
    if not wrong:
        return None
    graphs = [file for file in wrong if file.endswith(".onnx")]
    details = _graph_difference(bundle.file(graphs[0]), folder / graphs[0]) if graphs else []
    return "; ".join([f"{', '.join(wrong)}: not the file that this graph and recipe make", *details])


def _numberless(path: Path) -> bytes:
    """Read an OpenVINO model without the numbers of nodes that it names itself: they count on within a process."""
    return _NUMBERED.sub(rb"\1", path.read_bytes())


def _graph_difference(ours: Path, expected: Path) -> list[str]:
    """Describe the first nodes and initializers that differ between two ONNX graphs."""
    pair = [_parts(ir.load(path)) for path in (ours, expected)]
    names = [name for name in dict.fromkeys((*pair[1], *pair[0])) if pair[0].get(name) != pair[1].get(name)]
    lines = [f"{name}: {pair[0].get(name, 'missing')}, expected {pair[1].get(name, 'nothing')}" for name in names]
    return [_short(line) for line in lines[:_SHOWN]]


def _parts(graph: ir.Model) -> Mapping[str, str]:
    parts = {}
    for node in graph.graph.all_nodes():
        attributes = ", ".join(f"{name}={_value(attribute)}" for name, attribute in sorted(node.attributes.items()))
        parts[node.name or str(node)] = f"{node.op_type}({attributes})"
    for name, value in graph.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        if isinstance(tensor, ir.ExternalTensor):
            content = f"in {tensor.location}"
        else:
            content = f"inside, beginning {tensor.tobytes()[:16].hex()}"
        parts[name] = f"{tensor.dtype.name} {[*tensor.shape.numpy()]} {content}"
    return parts


def _value(attribute: ir.Attr) -> str:
    return "graph" if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) else f"{attribute.value}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
