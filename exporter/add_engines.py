"""Adds engines to a bundle from its own graphs: other targets, other precisions, and pending engines."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffoundry
from diffoundry.calibration.quality import Budget
from diffoundry.exporter.bundle_writer import sum_files
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.jobs.processes import JobProcesses
from diffoundry.exporter.jobs.runner import FinishedJob, JobRunner, Progress, Run, complete_targets, remove_unused
from diffoundry.exporter.recipe import check_calibration, check_variants, quantization_for
from diffoundry.exporter.single_graph.request import SINGLE_GRAPH
from diffoundry.exporter.work_folder import BUILD_ENDING, BUILD_STATE, WorkFolder, recover_build
from diffoundry.runtime.bundle.atomic_write import sync_file, write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, dump_manifest
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import ComponentSpec, EngineSpec, Recipe, Variant
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.formats.onnx_locations import check_graph_files

__all__ = ["AddEnginesReport", "add_engines", "pending_variants"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AddEnginesReport:
    """Result of adding engines to a bundle.

    Attributes:
        manifest: The new manifest.
        variants: The variants that were added.
        done: The jobs of this run.
        kept: Labels of the jobs that an interrupted run has finished.
    """

    manifest: Manifest
    variants: tuple[Variant, ...]
    done: tuple[FinishedJob, ...]
    kept: tuple[str, ...]


def pending_variants(manifest: Manifest) -> tuple[Variant, ...]:
    """Variants of which some engine is pending, or missing as an interrupted build of 0.1 left it."""
    built = [
        {_key(engine) for engine in component.engines if engine.pending is None}
        for component in manifest.components.values()
    ]
    return tuple(
        variant for variant in manifest.recipe.variants if not all(_key(variant) in engines for engines in built)
    )


def add_engines(
    path: Path,
    variants: Sequence[Variant],
    progress: Progress,
    *,
    quantization: QuantizationRequest | None = None,
    overwrite: bool = False,
    run: Run | None = None,
) -> AddEnginesReport:
    """Build engines from the portable graphs of a bundle and add them to it.

    The work is done in a copy, `<path>.build`, which becomes the bundle when it is complete. Until then the bundle and
    its old engines stay as they are; an interrupted build continues in the copy.

    Args:
        path: The bundle.
        variants: The variants to add; none adds the pending engines.
        progress: Called as each phase begins.
        quantization: Budget and prompts, for precisions that need calibration and that the recipe has no choice for.
        overwrite: True to build existing engines again.
        run: As in `export`.

    Raises:
        BundleError: The folder is no bundle, a file of it was changed, or a job failed.
        InputError: It lies in the hub's cache, nothing is pending, an engine exists already, a target does not
            support a precision, or a precision needs the calibration that the request excludes.
    """
    bundle, manifest = _open(path)
    chosen = tuple(variants) or pending_variants(manifest)
    if not chosen:
        raise InputError(f"bundle {path}: no engine is pending; pass --target and --precision of the engines to add")
    check_variants(chosen)
    _refuse_present(path, manifest, chosen, overwrite=overwrite)
    asked = quantization or QuantizationRequest()
    check_calibration(chosen, asked)
    halves = asked.budget != Budget()
    request = quantization_for(manifest.recipe, asked)
    recipe = replace(manifest.recipe, variants=_joined(manifest.recipe.variants, chosen))
    if halves or not asked.calibrate:
        replacing = "a new budget" if halves else "--no-calibration"
        recipe = replace(recipe, quantization=_choices_to_keep(path, manifest, chosen, replacing))
    kept_engines = _without(manifest, chosen)
    with _work_folder(path) as work, JobProcesses() as processes:
        work.start({**_origin(manifest), "recipe": to_json(recipe), "request": to_json(request.local)})
        progress("bundle", "copy")
        _copy(bundle, manifest, kept_engines, work.folder)
        jobs = JobRunner(work.folder, work.journal, progress, run or processes)
        recipe = replace(recipe, quantization=jobs.quantization(recipe, request, halves=halves))
        components = _built(jobs, kept_engines, recipe, chosen)
        remove_unused(work.folder, components)
        complete_targets(work.folder, replace(recipe, variants=chosen), progress)
        progress("bundle", "sums")
        manifest = _write(work.folder, replace(manifest, recipe=recipe, components=components), kept_engines)
        work.put_in_place()
    return AddEnginesReport(manifest=manifest, variants=chosen, done=tuple(jobs.done), kept=tuple(jobs.kept))


def _key(made: Variant | EngineSpec) -> tuple[str, str]:
    return made.target, made.precision


def _open(path: Path) -> tuple[Bundle, Manifest]:
    """Open a bundle, and check the graphs that engines are built from.

    Raises:
        BundleError: It is no bundle, a file of it was changed, or a graph reads files that its manifest does not list.
    """
    recover_build(path)
    bundle = Bundle(path)
    if bundle.manifest is None:
        raise BundleError(
            f"bundle {path}: got a folder without {MANIFEST_NAME}, expected a bundle; make one with 'diffoundry export'"
        )
    if bundle.in_hub_cache:
        raise InputError(
            f"bundle {path}: lies in the hub's cache, which only the hub's library may change; copy it with "
            f"'cp -rL {path} my.bundle' and build there"
        )
    for component in bundle.manifest.components.values():
        for file in component.graph:
            bundle.file(file)
        _check_graph(path, component)
    return bundle, bundle.manifest


def _check_graph(path: Path, component: ComponentSpec) -> None:
    """Refuse a portable graph that reads files which the manifest does not list.

    Raises:
        BundleError: As said, or it is no graph.
    """
    try:
        check_graph_files(path / component.graph[0], component.graph[0], component.graph)
    except ValueError as error:
        raise BundleError(f"bundle {path}: {component.graph[0]}: {error}; export the bundle again") from error


def _refuse_present(path: Path, manifest: Manifest, chosen: Sequence[Variant], *, overwrite: bool) -> None:
    waiting = {_key(variant) for variant in pending_variants(manifest)}
    present = {_key(variant) for variant in manifest.recipe.variants} - waiting
    for variant in chosen:
        if _key(variant) in present and not overwrite:
            raise InputError(
                f"bundle {path}: holds {variant.target} {variant.precision} already; pass --overwrite to build it again"
            )
        if _key(variant) in present and variant.target == "onnxruntime" and SINGLE_GRAPH in manifest.files:
            raise InputError(
                f"bundle {path}: got --overwrite for engines whose weights its one graph, {SINGLE_GRAPH}, reads; "
                f"export it again with --single-graph"
            )


def _joined(old: Sequence[Variant], new: Sequence[Variant]) -> tuple[Variant, ...]:
    """The old variants in order, each replaced by a new one of the same target and precision, then the others."""
    fresh = {_key(variant): variant for variant in new}
    joined = [fresh.pop(_key(variant), variant) for variant in old]
    return (*joined, *fresh.values())


def _choices_to_keep(
    path: Path, manifest: Manifest, chosen: Sequence[Variant], replacing: str
) -> dict[str, QuantizationChoice]:
    """The recipe's choices, except for the precisions that get a new one because of a budget or an option.

    Raises:
        InputError: Another target has engines that were made with a choice which would be replaced.
    """
    replaced = {variant.precision for variant in chosen}
    for variant in manifest.recipe.variants:
        stays = all(_key(variant) != _key(other) for other in chosen)
        if stays and variant.precision in replaced and variant.precision in manifest.recipe.quantization:
            raise InputError(
                f"bundle {path}: its {variant.target} {variant.precision} engines were made with the choice that "
                f"{replacing} would replace; name both targets with --overwrite, or leave "
                f"{replacing.replace('a new', 'the')} out"
            )
    return {name: choice for name, choice in manifest.recipe.quantization.items() if name not in replaced}


def _work_folder(path: Path) -> WorkFolder:
    return WorkFolder(
        path,
        ending=BUILD_ENDING,
        state=BUILD_STATE,
        option=f"bundle {path}",
        busy="another command is adding engines to it; wait for it",
        advice="copy the bundle to a folder that can be written",
    )


def _origin(manifest: Manifest) -> dict[str, Any]:
    """Return what tells the bundle that a build began with from another one: jobs of another are not kept."""
    return {"diffoundry": diffoundry.__version__, "files": to_json(manifest.files)}


def _copy(bundle: Bundle, manifest: Manifest, kept: dict[str, ComponentSpec], folder: Path) -> None:
    """Copy the files of a bundle, but for those of engines that are built again; files that the manifest lacks stay.

    Sums are checked where they will be computed again. Graphs and engines keep theirs, with which they are checked when
    they are used.
    """
    left_out, trusted = _files(manifest.components) - _files(kept), _files(kept)
    for name, spec in manifest.files.items():
        target = folder / name
        if name in left_out or (target.is_file() and target.stat().st_size == spec.size):
            continue
        source = bundle.root / name if name in trusted else bundle.file(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.new")
        shutil.copyfile(source, draft)
        sync_file(draft)  # a name that is there says that the content is
        draft.replace(target)


def _without(manifest: Manifest, variants: Sequence[Variant]) -> dict[str, ComponentSpec]:
    """The components without the engines of these variants."""
    gone = {_key(variant) for variant in variants}
    return {
        name: replace(spec, engines=tuple(e for e in spec.engines if _key(e) not in gone))
        for name, spec in manifest.components.items()
    }


def _built(
    jobs: JobRunner, components: dict[str, ComponentSpec], recipe: Recipe, chosen: Sequence[Variant]
) -> dict[str, ComponentSpec]:
    """Build the chosen engines of every component; all of them in the order of the recipe."""
    order = [_key(variant) for variant in recipe.variants]

    def place(engine: EngineSpec) -> int:
        return order.index(_key(engine))

    built = {}
    for name, spec in components.items():
        fresh = [jobs.engine(name, spec.role, variant, recipe) for variant in chosen]
        built[name] = replace(spec, engines=tuple(sorted((*spec.engines, *fresh), key=place)))
    return built


def _write(path: Path, manifest: Manifest, unchanged: dict[str, ComponentSpec]) -> Manifest:
    """Write the manifest. The checksums of portable graphs and of unchanged engines are kept."""
    trusted = _files(unchanged)
    known = {name: spec for name, spec in manifest.files.items() if name in trusted}
    written = replace(manifest, files=sum_files(path, known), format_version=FORMAT_VERSION)
    write_text(path / MANIFEST_NAME, dump_manifest(written))
    return written


def _files(components: Mapping[str, ComponentSpec]) -> set[str]:
    """The files of graphs and engines."""
    return {file for component in components.values() for file in component.all_files}
