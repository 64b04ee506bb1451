"""Runs the jobs of a bundle, each once: finished jobs are recorded and skipped when an export continues."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.component import Component
from diffoundry.exporter.jobs.job import CalibrationJob, EngineJob, Job, JobResult, PortableJob
from diffoundry.exporter.jobs.journal import Journal
from diffoundry.exporter.steps.choose_quantization import precision_formats
from diffoundry.runtime.bundle.atomic_write import sync_file, sync_folders
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import ComponentSpec, EngineSpec, Recipe, Variant
from diffoundry.runtime.engines.plugins import find_plugin

__all__ = ["FinishedJob", "JobRunner", "Progress", "Run", "complete_targets", "remove_unused"]

Progress = Callable[[str, str], None]
"""Called with (what, phase) as each phase begins; the last phase of a job is "done" or "kept"."""

Run = Callable[[Job, Progress], JobResult]
"""Does one job; `JobProcesses` does it in a process of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedJob:
    """One job of this run.

    Attributes:
        component: Its component.
        label: Its name: "vae_decoder", or "vae_decoder, openvino bf16".
        seconds: Phase to seconds.
        peak_rss: Largest resident memory of its process in bytes.
    """

    component: str
    label: str
    seconds: Mapping[str, float]
    peak_rss: int


class JobRunner:
    """Runs jobs in a bundle's folder, and skips those that its journal has recorded.

    Attributes:
        done: The jobs of this run, in order.
        kept: Labels of the jobs that an interrupted run has finished.
    """

    def __init__(self, folder: Path, journal: Journal, progress: Progress, run: Run) -> None:
        self.done: list[FinishedJob] = []
        self.kept: list[str] = []
        self._folder = folder
        self._journal = journal
        self._progress = progress
        self._run = run

    def portable(self, checkpoint: Checkpoint, component: str, recipe: Recipe, empty: Callable[[str], None]) -> None:
        """Write the portable graph of a component.

        Args:
            checkpoint: Checkpoint of the component.
            component: Its name.
            recipe: Opset and dims.
            empty: Called with the name to make the component's folder, new and empty.

        Raises:
            BundleError: The job failed.
        """
        job = PortableJob(
            checkpoint=checkpoint.describe(),
            component=component,
            opset=recipe.opset,
            dims=recipe.dims,
            folder=str(self._folder),
        )
        if self._finished(job, component) is None:
            empty(component)
        self._once(job, component)

    def quantization(
        self, recipe: Recipe, request: QuantizationRequest, *, halves: bool
    ) -> Mapping[str, QuantizationChoice]:
        """Calibrate the precisions that need it and for which the recipe has no choice.

        Args:
            recipe: Variants, and earlier choices for them.
            request: Budget and prompts.
            halves: True if fp16 and bf16 graphs are calibrated too, to find the nodes that must stay in fp32. Graphs
                with quantized weights always are.

        Returns:
            Precision to choice: the recipe's and the new ones.

        Raises:
            BundleError: The job failed, or the budget cannot be met.
        """
        formats = precision_formats(recipe.variants)
        wanted = {
            precision
            for precision, some in formats.items()
            if precision not in recipe.quantization
            and any(one.quantized or (halves and one.floats != "fp32") for one in some)
        }
        if not wanted:
            return recipe.quantization
        variants = tuple(variant for variant in recipe.variants if variant.precision in wanted)
        job = CalibrationJob(request=request, variants=variants, folder=str(self._folder))
        return {**recipe.quantization, **self._once(job, "calibration").choices}

    def engine(self, component: str, role: str, variant: Variant, recipe: Recipe) -> EngineSpec:
        """Lower a component, whose portable graph exists, for one of the recipe's variants.

        Raises:
            BundleError: The job failed.
        """
        first = next(other for other in recipe.variants if other.target == variant.target)
        job = EngineJob(
            component=component,
            role=role,
            variant=variant,
            first=variant == first,
            dims=recipe.dims,
            buckets=recipe.buckets,
            quantization=recipe.quantization.get(variant.precision),
            folder=str(self._folder),
            partition=recipe.partition,
            split=recipe.split,
        )
        result = self._once(job, f"{component}.{variant.target}.{variant.precision}")
        assert result.engine is not None, f"{job.label}: a worker without an error returns an engine"
        return result.engine

    def components(self, components: Iterable[Component], recipe: Recipe) -> dict[str, ComponentSpec]:
        """Lower components for every variant of the recipe and return their entries of the manifest.

        Raises:
            BundleError: A job failed.
        """
        specs = {}
        for one in components:
            graph = self._journal.recall(one.name, JobResult)
            assert graph is not None, f"{one.name}: its portable graph comes first"
            engines = tuple(self.engine(one.name, one.role, variant, recipe) for variant in recipe.variants)
            specs[one.name] = ComponentSpec(role=one.role, network=one.network, graph=graph.graph, engines=engines)
        return specs

    def _once(self, job: Job, key: str) -> JobResult:
        result = self._finished(job, key)
        if result is not None:
            self.kept.append(job.label)
            self._progress(job.label, "kept")
            return result
        result = self._run(job, self._progress)
        self._keep(result)
        self._journal.note(key, result)
        self.done.append(
            FinishedJob(component=job.component, label=job.label, seconds=result.seconds, peak_rss=result.peak_rss)
        )
        self._progress(job.label, "done")
        return result

    def _finished(self, job: Job, key: str) -> JobResult | None:
        """Return the recorded result of a job, unless the record or one of its files is missing."""
        result = self._journal.recall(key, JobResult)
        if result is None or result.error is not None or not result.fits(job):
            return None
        return result if all((self._folder / name).is_file() for name in result.files) else None

    def _keep(self, result: JobResult) -> None:
        """Wait until the files of a job are on the disk: what the journal says must be there after a loss of power."""
        paths = [self._folder / name for name in result.files]
        for path in paths:
            sync_file(path)
        sync_folders({path.parent for path in paths})


def complete_targets(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """Let every target of a recipe write the files that its vendor's tools expect in a bundle.

    Raises:
        EngineError: A target cannot.
    """
    for variant in {variant.target: variant for variant in recipe.variants}.values():
        progress(f"bundle, {variant.target}", "complete")
        find_plugin(variant.target).make_target(variant.options).complete(folder)


def remove_unused(folder: Path, components: Mapping[str, ComponentSpec]) -> None:
    """Remove the graphs in other precisions that no engine of a bundle reads."""
    used = {file for component in components.values() for file in component.all_files}
    for name in components:
        for path in (folder / name).glob("model*.onnx*"):
            if path.relative_to(folder).as_posix() not in used:
                path.unlink()
