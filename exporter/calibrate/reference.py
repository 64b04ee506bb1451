"""Where a bundle's images are generated while it is calibrated: by its float graphs, and by others in their place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from diffoundry.calibration.quality import mean_square
from diffoundry.calibration.stand_ins import CachedEngine, FixedEngines
from diffoundry.calibration.tasks import Case, Generation, Reconstruction, Task
from diffoundry.exporter.calibrate.simulator import Simulator
from diffoundry.exporter.steps.graph_files import GRAPH_NAME
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import Engine
from diffoundry.runtime.pipelines import open_pipeline
from diffoundry.targets.base import tensor_specs

__all__ = ["FloatReference"]

FloatArray = NDArray[np.float32]

_TOKENS_AT_ONCE = 2048
"""Latent pixels to a batch of images: small models generate eight at once, Stable Diffusion one."""

_MOST_AT_ONCE = 8


class FloatReference:
    """The float pipeline of a bundle, its tasks, and what it generated.

    Attributes:
        bundle: The bundle, which need not be finished: graphs, configs, tokenizer and scheduler are enough.
        tasks: What is generated; the first is the family's own.
        at_once: Images to a batch.
    """

    def __init__(self, folder: Path, task: Generation, threads: int | None = None) -> None:
        """Nothing is opened yet.

        Args:
            folder: Of the bundle.
            task: How its images are generated.
            threads: For one call of an engine, or None for ONNX Runtime's own choice.
        """
        self.bundle = Bundle(folder)
        self._images: dict[Case, FloatArray] = {}
        self._simulators = {name: Simulator(folder / name, threads) for name in self.bundle.components}
        self._references: dict[tuple[int, Case], FloatArray] = {}
        self.tasks: list[Task] = [task]
        if "vae_encoder" in self.bundle.components:
            self.tasks.append(Reconstruction(images=self._images))
        self._floats = {name: self._remembering(name) for name in self.components}
        height, width = open_pipeline(self.floats()).default_size
        factor = open_pipeline(self.floats()).vae_scale_factor
        tokens = ((task.height or height) // factor) * ((task.width or width) // factor)
        self.at_once = max(1, min(_MOST_AT_ONCE, _TOKENS_AT_ONCE // tokens))

    @property
    def components(self) -> tuple[str, ...]:
        """The components that some task runs, each once."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.components(self.bundle)))

    def graph(self, component: str) -> ir.Model:
        """The component's portable graph, fresh from its file."""
        return ir.load(self.bundle.root / component / GRAPH_NAME)

    def open(self, component: str, model: ir.Model, name: str) -> Engine:
        """An engine for a graph whose weights are the component's."""
        return self._simulators[component].open(model, name)

    def _remembering(self, component: str) -> CachedEngine:
        graph = self.graph(component)
        return CachedEngine(
            lambda: self.open(component, self.graph(component), "float"),
            tensor_specs(graph.graph.inputs),
            tensor_specs(graph.graph.outputs),
        )

    def floats(self, changed: Mapping[str, Engine] | None = None) -> FixedEngines:
        """The float engines, some of them replaced."""
        return FixedEngines(self.bundle, {**self._floats, **(changed or {})})

    def release(self) -> None:
        """Close the float engines until they are needed again."""
        for engine in self._floats.values():
            engine.release()

    def close(self) -> None:
        """Close everything."""
        for engine in self._floats.values():
            engine.close()

    def task_of(self, component: str, steps: int | None) -> Task:
        """The first task that runs a component, in this many steps of the denoising loop instead of its own."""
        task = next(task for task in self.tasks if component in task.components(self.bundle))
        return replace(task, steps=steps) if steps is not None and isinstance(task, Generation) else task

    def know(self, images: Mapping[Case, FloatArray]) -> None:
        """Take over images that the float pipeline generated elsewhere."""
        self._images.update(images)
        self._references.update({(0, case): image for case, image in images.items()})

    def errors(self, engines: FixedEngines, cases: Sequence[Case]) -> list[NDArray[np.float64]]:
        """Mean squared difference to the float pipeline of each case, for each task."""
        references = [self._reference(i, cases) for i in range(len(self.tasks))]
        self.release()
        return [
            mean_square(self._generate(task, engines, cases), reference)
            for task, reference in zip(self.tasks, references, strict=True)
        ]

    def _reference(self, i: int, cases: Sequence[Case]) -> FloatArray:
        missing = [case for case in cases if (i, case) not in self._references]
        if missing:
            generated = self._generate(self.tasks[i], self.floats(), missing)
            self._references.update({(i, case): image for case, image in zip(missing, generated, strict=True)})
            if i == 0:
                self._images.update(zip(missing, generated, strict=True))
        return np.stack([self._references[i, case] for case in cases])

    def _generate(self, task: Task, engines: FixedEngines, cases: Sequence[Case]) -> FloatArray:
        batches = [cases[start : start + self.at_once] for start in range(0, len(cases), self.at_once)]
        generated: list[NDArray[Any]] = [task.generate(engines, batch) for batch in batches]
        return np.concatenate(generated)
