"""Adds engines to a bundle from its own graphs: other targets, other precisions, and those still to be built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.bundle_writer import sum_files
from diffoundry.exporter.calibrate.calibrate import QuantizationRequest
from diffoundry.exporter.jobs.journal import Journal
from diffoundry.exporter.jobs.processes import run_job
from diffoundry.exporter.jobs.runner import Done, JobRunner, Progress, Run, complete_targets, remove_unused
from diffoundry.exporter.recipe import check_builds, quantization_for
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, dump_manifest
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import ComponentSpec, EngineSpec, Recipe, Variant
from diffoundry.runtime.errors import BundleError, InputError

__all__ = ["RebuildReport", "pending_builds", "rebuild"]

_STATE = ".build"


@dataclass(frozen=True, kw_only=True, slots=True)
class RebuildReport:
    """What was added to a bundle.

    Attributes:
        manifest: As it is now.
        builds: What was built.
        done: The jobs of this run.
        kept: Labels of the jobs taken over from an interrupted run.
    """

    manifest: Manifest
    builds: tuple[Variant, ...]
    done: tuple[Done, ...]
    kept: tuple[str, ...]


def pending_builds(manifest: Manifest) -> tuple[Variant, ...]:
    """The builds of which some engine is not built yet."""
    waiting = {
        (engine.target, engine.precision)
        for component in manifest.components.values()
        for engine in component.engines
        if engine.pending is not None
    }
    return tuple(build for build in manifest.recipe.variants if (build.target, build.precision) in waiting)


def rebuild(
    path: Path,
    builds: Sequence[Variant],
    progress: Progress,
    *,
    quantization: QuantizationRequest | None = None,
    overwrite: bool = False,
    run: Run = run_job,
) -> RebuildReport:
    """Build engines from the portable graphs of a bundle and add them to it.

    The bundle can be used all the while: the manifest that names the new engines is written last, and at once.

    Args:
        path: The bundle.
        builds: What to build; none builds what is pending.
        progress: Told as each phase begins.
        quantization: Budget and prompts, for precisions that need calibration and that the recipe has no choice for.
        overwrite: Whether engines that are there already are built anew.
        run: As `build`.

    Raises:
        BundleError: It is no bundle, a file of it was changed, or a job failed.
        InputError: Nothing is pending, an engine is there already, or a target does not do a precision.
    """
    manifest = _open(path)
    chosen = tuple(builds) or pending_builds(manifest)
    if not chosen:
        raise InputError(f"bundle {path}: nothing is pending, expected --target and --precision of what to build")
    check_builds(chosen)
    _refuse_present(path, manifest, chosen, overwrite=overwrite)
    asked = quantization or QuantizationRequest()
    halves = asked.budget != Budget()
    request = quantization_for(manifest.recipe, asked)
    recipe = replace(manifest.recipe, variants=_joined(manifest.recipe.variants, chosen))
    if halves:
        recipe = replace(recipe, quantization=_choices_to_keep(path, manifest, chosen))
    state = path / _STATE
    state.mkdir(exist_ok=True)
    try:
        with FileLock(state / "lock", timeout=0):
            journal = _journal(state, recipe, request)
            shop = JobRunner(path, journal, progress, run)
            kept_engines = _without(manifest, chosen)
            if overwrite:
                _take_out(path, manifest, kept_engines)
            recipe = replace(recipe, quantization=shop.choices(recipe, request, halves=halves))
            components = _build(shop, kept_engines, recipe, chosen)
            remove_unused(path, components)
            complete_targets(path, replace(recipe, variants=chosen), progress)
            progress("bundle", "sums")
            manifest = _write(path, replace(manifest, recipe=recipe, components=components), kept_engines)
            journal.forget()
    except Timeout as error:
        raise InputError(f"bundle {path}: another build is adding to it just now; wait for it") from error
    return RebuildReport(manifest=manifest, builds=chosen, done=tuple(shop.done), kept=tuple(shop.kept))


def _open(path: Path) -> Manifest:
    bundle = Bundle(path)
    if bundle.manifest is None:
        raise BundleError(
            f"bundle {path}: got a folder without {MANIFEST_NAME}, expected a bundle; make one with 'diffoundry export'"
        )
    for component in bundle.manifest.components.values():
        for file in component.graph:
            bundle.file(file)
    return bundle.manifest


def _refuse_present(path: Path, manifest: Manifest, chosen: Sequence[Variant], *, overwrite: bool) -> None:
    waiting = {(build.target, build.precision) for build in pending_builds(manifest)}
    present = {(build.target, build.precision) for build in manifest.recipe.variants} - waiting
    for build in chosen:
        if (build.target, build.precision) in present and not overwrite:
            raise InputError(
                f"bundle {path}: holds {build.target} {build.precision} already; pass --overwrite to build it anew"
            )


def _joined(old: Sequence[Variant], new: Sequence[Variant]) -> tuple[Variant, ...]:
    """The old builds in order, new ones of the same target and precision in their places, then the others."""
    fresh = {(build.target, build.precision): build for build in new}
    joined = [fresh.pop((build.target, build.precision), build) for build in old]
    return (*joined, *fresh.values())


def _choices_to_keep(path: Path, manifest: Manifest, chosen: Sequence[Variant]) -> dict[str, QuantizationChoice]:
    """The recipe's choices but those of the precisions that a new budget is given for.

    Raises:
        InputError: Another target has engines that were made with a choice which would go.
    """
    anew = {build.precision for build in chosen}
    for build in manifest.recipe.variants:
        stays = all((build.target, build.precision) != (other.target, other.precision) for other in chosen)
        if stays and build.precision in anew and build.precision in manifest.recipe.quantization:
            raise InputError(
                f"bundle {path}: its {build.target} {build.precision} engines were made with the choice that a new "
                f"budget would replace; name both targets with --overwrite, or leave the budget out"
            )
    return {name: choice for name, choice in manifest.recipe.quantization.items() if name not in anew}


def _journal(state: Path, recipe: Recipe, request: QuantizationRequest) -> Journal:
    journal = Journal(state)
    mine = {"recipe": to_json(recipe), "request": to_json(request)}
    if journal.recall("recipe", dict) != mine:
        journal.forget()
        journal.note("recipe", mine)
    return journal


def _without(manifest: Manifest, builds: Sequence[Variant]) -> dict[str, ComponentSpec]:
    """The components without the engines that are to be built."""
    gone = {(build.target, build.precision) for build in builds}
    return {
        name: replace(spec, engines=tuple(e for e in spec.engines if (e.target, e.precision) not in gone))
        for name, spec in manifest.components.items()
    }


def _build(
    shop: JobRunner, components: dict[str, ComponentSpec], recipe: Recipe, chosen: Sequence[Variant]
) -> dict[str, ComponentSpec]:
    """Build the chosen engines of every component; all of them in the order of the recipe."""
    order = [(build.target, build.precision) for build in recipe.variants]

    def place(engine: EngineSpec) -> int:
        return order.index((engine.target, engine.precision))

    built = {}
    for name, spec in components.items():
        fresh = [shop.engine(name, build, recipe) for build in chosen]
        built[name] = replace(spec, engines=tuple(sorted((*spec.engines, *fresh), key=place)))
    return built


def _take_out(path: Path, manifest: Manifest, left: dict[str, ComponentSpec]) -> None:
    """Take engines that are to be built anew out of the bundle, so that it is one whatever becomes of the build."""
    gone = _files(manifest.components) - _files(left)
    files = {name: spec for name, spec in manifest.files.items() if name not in gone}
    _save(path, replace(manifest, components=left, files=files))
    for name in gone:
        (path / name).unlink()


def _write(path: Path, manifest: Manifest, unchanged: dict[str, ComponentSpec]) -> Manifest:
    """Write the manifest; sums are taken over for portable graphs and for engines that did not change."""
    trusted = _files(unchanged)
    known = {name: spec for name, spec in manifest.files.items() if name in trusted}
    return _save(path, replace(manifest, files=sum_files(path, known)))


def _save(path: Path, manifest: Manifest) -> Manifest:
    written = replace(manifest, format_version=FORMAT_VERSION)
    write_text(path / MANIFEST_NAME, dump_manifest(written))
    return written


def _files(components: Mapping[str, ComponentSpec]) -> set[str]:
    """The files of graphs and engines."""
    return {file for component in components.values() for file in component.all_files}
