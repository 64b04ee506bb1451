"""Where the jobs of a bundle are done: each once, in a process of its own, and remembered."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffoundry.exporter.calibrate.calibrate import QuantizationRequest
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.component import Component
from diffoundry.exporter.jobs.job import CalibrationJob, EngineJob, Job, Outcome, PortableJob, forms_of
from diffoundry.exporter.jobs.journal import Journal
from diffoundry.exporter.jobs.processes import run_job
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import ComponentSpec, EngineSpec, Recipe, Variant
from diffoundry.runtime.engines.plugins import find_plugin

__all__ = ["Done", "JobRunner", "Progress", "Run", "complete_targets", "remove_unused"]

Progress = Callable[[str, str], None]
"""Called with (what, phase) as each phase begins; the last phase of a job is "done" or "kept"."""

Run = Callable[[Job, Progress], Outcome]
"""Does one job; `processes.run_job` does it in a process of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """One job of this run.

    Attributes:
        component: Its component.
        label: What it did: "unet", or "unet, openvino bf16".
        seconds: Phase to seconds.
        peak_rss: Largest resident memory of its process in bytes.
    """

    component: str
    label: str
    seconds: Mapping[str, float]
    peak_rss: int


class JobRunner:
    """Does jobs in a bundle's folder, skipping those that its journal remembers.

    Attributes:
        done: The jobs done in this run, in order.
        kept: Labels of the jobs taken over from an interrupted run.
    """

    def __init__(self, folder: Path, journal: Journal, progress: Progress, run: Run = run_job) -> None:
        self.done: list[Done] = []
        self.kept: list[str] = []
        self._folder = folder
        self._journal = journal
        self._progress = progress
        self._run = run

    def portable(self, checkpoint: Checkpoint, component: str, recipe: Recipe, empty: Callable[[str], None]) -> None:
        """Write the portable graph of a component.

        Args:
            checkpoint: Where it comes from.
            component: Its name.
            recipe: Opset and dims.
            empty: Makes the component's folder new and empty.

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
        if self._journal.recall(component, Outcome) is None:
            empty(component)
        self._once(job, component)

    def choices(
        self, recipe: Recipe, request: QuantizationRequest, *, halves: bool
    ) -> Mapping[str, QuantizationChoice]:
        """Calibrate for the builds that need it and that the recipe has no choice for.

        Args:
            recipe: Builds, and what was chosen for them before.
            request: Budget and prompts.
            halves: Whether graphs whose floats are halves are calibrated too, to find what must stay in fp32; those
                with quantized weights always are.

        Returns:
            Precision to choice: the recipe's and the new ones.

        Raises:
            BundleError: The job failed, or the budget cannot be met.
        """
        forms = forms_of(recipe.variants)
        wanted = {
            precision
            for precision, some in forms.items()
            if precision not in recipe.quantization
            and any(form.quantized or (halves and form.floats != "fp32") for form in some)
        }
        if not wanted:
            return recipe.quantization
        builds = tuple(build for build in recipe.variants if build.precision in wanted)
        job = CalibrationJob(request=request, builds=builds, folder=str(self._folder))
        return {**recipe.quantization, **self._once(job, "calibration").choices}

    def engine(self, component: str, build: Variant, recipe: Recipe) -> EngineSpec:
        """Lower a component, whose portable graph is there, for one of the recipe's builds.

        Raises:
            BundleError: The job failed.
        """
        first = next(other for other in recipe.variants if other.target == build.target)
        job = EngineJob(
            component=component,
            build=build,
            first=build == first,
            dims=recipe.dims,
            buckets=recipe.buckets,
            quantization=recipe.quantization.get(build.precision),
            folder=str(self._folder),
        )
        outcome = self._once(job, f"{component}.{build.target}.{build.precision}")
        assert outcome.engine is not None, f"{job.label}: a worker without an error brings an engine"
        return outcome.engine

    def components(self, components: Iterable[Component], recipe: Recipe) -> dict[str, ComponentSpec]:
        """Lower components for every variant of the recipe and return their entries of the manifest.

        Raises:
            BundleError: A job failed.
        """
        specs = {}
        for one in components:
            graph = self._journal.recall(one.name, Outcome)
            assert graph is not None, f"{one.name}: its portable graph comes first"
            engines = tuple(self.engine(one.name, variant, recipe) for variant in recipe.variants)
            specs[one.name] = ComponentSpec(role=one.role, network=one.network, graph=graph.graph, engines=engines)
        return specs

    def _once(self, job: Job, key: str) -> Outcome:
        outcome = self._journal.recall(key, Outcome)
        if outcome is not None:
            self.kept.append(job.label)
            self._progress(job.label, "kept")
            return outcome
        outcome = self._run(job, self._progress)
        self._journal.note(key, outcome)
        self.done.append(
            Done(component=job.component, label=job.label, seconds=outcome.seconds, peak_rss=outcome.peak_rss)
        )
        self._progress(job.label, "done")
        return outcome


def complete_targets(folder: Path, recipe: Recipe, progress: Progress) -> None:
    """Let every target of a recipe write what its vendor's tools look for in a bundle.

    Raises:
        EngineError: A target cannot.
    """
    for build in {build.target: build for build in recipe.variants}.values():
        progress(f"bundle, {build.target}", "complete")
        find_plugin(build.target).make_target(build.options).complete(folder)


def remove_unused(folder: Path, components: Mapping[str, ComponentSpec]) -> None:
    """Remove the graphs in other forms that no engine of a bundle reads."""
    used = {file for component in components.values() for file in component.all_files}
    for name in components:
        for path in (folder / name).glob("model*.onnx*"):
            if path.relative_to(folder).as_posix() not in used:
                path.unlink()
