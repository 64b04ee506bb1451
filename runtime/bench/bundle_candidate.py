"""A bundle as a candidate of a benchmark."""

import os
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions, version

from diffoundry.runtime.bench.candidate import Generation, Load
from diffoundry.runtime.bench.component_memory import ComponentMemory
from diffoundry.runtime.bench.machine import peak_rss
from diffoundry.runtime.bench.request import BenchRequest
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.engines.protocol import Array, EngineOptions
from diffoundry.runtime.pipelines import load
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["BundleCandidate"]


class BundleCandidate:
    """Loads a bundle and generates with it, in this process."""

    reference = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        request: BenchRequest,
        *,
        target: str | None = None,
        precision: str | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        """Store the arguments. Nothing is opened yet.

        Args:
            path: The bundle.
            request: Prompts and settings to generate.
            target: As `load`.
            precision: As `load`.
            options: As `load`.
        """
        self.name = "diffoundry"
        self._path = path
        self._request = request
        self._target = target
        self._precision = precision
        self._options = options or EngineOptions()
        self._pipeline: DiffusionPipeline | None = None
        self._memory: ComponentMemory | None = None  # until the first image is there
        self._highest = 0

    @property
    def pipeline(self) -> DiffusionPipeline:
        """The pipeline under test."""
        assert self._pipeline is not None, "load comes first"
        return self._pipeline

    def load(self) -> Load:
        """Open the bundle and the engines that its default task runs; other engines are not part of its cost.

        Raises:
            BundleError: As `pipelines.load`.
            EngineError: An engine cannot be opened.
        """
        start = time.perf_counter()
        self._pipeline = load(self._path, target=self._target, precision=self._precision, options=self._options)
        opened = time.perf_counter()
        mark, seconds = opened, {}
        self._memory = ComponentMemory()
        for name in self.pipeline.used_components:
            with self._memory.opening(name):
                self.pipeline.session.engine(name)
            now = time.perf_counter()
            mark, seconds[name] = now, now - mark
        return Load(total=mark - start, open=opened - start, components=seconds)

    def generate(self) -> Generation:
        """Generate, recording the time of every engine call and step.

        Raises:
            InputError: The request does not fit the bundle.
            EngineError: An engine failed.
        """
        calls: dict[str, list[float]] = {}
        memory, self._memory = self._memory, None

        def note(name: str, _feeds: Mapping[str, Array], _outputs: Mapping[str, Array], seconds: float) -> None:
            calls.setdefault(name, []).append(seconds)
            if memory is not None:
                memory.called(name)

        def inside_so_far() -> float:
            return sum(map(sum, calls.values()))

        session = self.pipeline.session
        session.on_call = note
        default = self.pipeline.default_size
        height, width = self._request.height or default[0], self._request.width or default[1]
        arguments = self._request.image_arguments() | self.pipeline.measure_arguments(
            self._request.steps, self._request.guidance_scale, height, width
        )
        steps, inside = [], []
        try:
            start = time.perf_counter()
            run = self.pipeline.start(
                self._request.prompt if self.pipeline.text_encoders else None,
                seed=self._request.seed,
                **{"output_type": "np"}
                | {name: value for name, value in arguments.items() if name in self.pipeline.argument_names},
            )
            before, mark = inside_so_far(), time.perf_counter()
            for _ in run:
                steps.append(time.perf_counter() - mark)
                inside.append(inside_so_far() - before)
                before, mark = inside_so_far(), time.perf_counter()
            image = self.pipeline.measured_images(run.finish())
            seconds = time.perf_counter() - start
        finally:
            session.on_call = None
        self._highest = max(self._highest, memory.highest if memory else 0)
        return Generation(
            image=image,
            seconds=seconds,
            steps=tuple(steps),
            inside=tuple(inside),
            calls={name: tuple(values) for name, values in calls.items()},
            memory=dict(memory.peaks) if memory else {},
        )

    def facts(self) -> dict[str, str]:
        """Target, its library's version, precision, device, threads, and what the engines say of themselves.

        Such are the type of their floats, which layers our own kernels compute, and how they were compiled.
        """
        choices = [self.pipeline.session.choice(name) for name in self.pipeline.used_components]
        found = [choice for choice in choices if choice is not None]
        target = found[0].spec.target if found else "onnxruntime"
        precisions = list(dict.fromkeys(choice.spec.precision for choice in found)) or ["as exported"]
        device = found[0].device if found else self._options.device or "cpu"
        threads = self._options.threads
        facts = {
            "target": target,
            "library": _library(target),
            "precision": ", ".join(precisions),
            "device": device,
            "threads": "the library's own choice" if threads is None else str(threads),
        }
        session = self.pipeline.session
        notes = {name: getattr(session.engine(name), "metadata", {}) for name in session.opened}
        for key in dict.fromkeys(key for said in notes.values() for key in said):
            kept = {name: said[key] for name, said in notes.items() if key in said}
            same = len(kept) == len(notes) and len(set(kept.values())) == 1
            words = kept.values() if same else (f"{name}: {value}" for name, value in kept.items())
            facts[key] = "; ".join(dict.fromkeys(map(str, words)))
        return facts

    def peak_rss(self) -> int | None:
        """Peak resident memory of this process."""
        peak = peak_rss()
        return None if peak is None else max(peak, self._highest)

    def close(self) -> None:
        """Close the engines."""
        if self._pipeline is not None:
            self._pipeline.session.close()


def _library(target: str) -> str:
    """The vendor's package with its version, such as "onnxruntime 1.31.1"."""
    module = find_plugin(target).module
    distributions = _distributions().get(module, [])
    return ", ".join(f"{name} {version(name)}" for name in dict.fromkeys(distributions)) or module


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Module to its packages, read once: the files of all installed packages are listed for it."""
    return packages_distributions()
