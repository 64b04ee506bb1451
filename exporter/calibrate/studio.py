"""Where a bundle's pictures are painted while it is calibrated: by its float graphs, and by others in their place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from diffoundry.calibration.quality import mean_square
from diffoundry.calibration.stand_ins import Remembering, StandIns
from diffoundry.calibration.tasks import Case, Painting, Reconstruction, Task
from diffoundry.exporter.calibrate.simulator import Simulator
from diffoundry.exporter.tracing.graph_files import GRAPH_NAME
from diffoundry.runtime.bundle import Bundle
from diffoundry.runtime.engine import Engine
from diffoundry.runtime.pipelines import open_pipeline
from diffoundry.targets.base import tensor_specs

__all__ = ["Studio"]

FloatArray = NDArray[np.float32]

_TOKENS_AT_ONCE = 2048
"""Latent pixels to a batch of pictures: small models paint eight at once, Stable Diffusion one."""

_MOST_AT_ONCE = 8


class Studio:
    """The float pipeline of a bundle, its tasks, and what it painted.

    Attributes:
        bundle: The bundle, which need not be finished: graphs, configs, tokenizer and scheduler are enough.
        tasks: What is painted; the first is the family's own.
        at_once: Pictures to a batch.
    """

    def __init__(self, folder: Path, task: Painting, threads: int | None = None) -> None:
        """Nothing is opened yet.

        Args:
            folder: Of the bundle.
            task: How its pictures are painted.
            threads: For one call of an engine, or None for ONNX Runtime's own choice.
        """
        self.bundle = Bundle(folder)
        self._pictures: dict[Case, FloatArray] = {}
        self._simulators = {name: Simulator(folder / name, threads) for name in self.bundle.components}
        self._references: dict[tuple[int, Case], FloatArray] = {}
        self.tasks: list[Task] = [task]
        if "vae_encoder" in self.bundle.components:
            self.tasks.append(Reconstruction(pictures=self._pictures))
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

    def _remembering(self, component: str) -> Remembering:
        graph = self.graph(component)
        return Remembering(
            lambda: self.open(component, self.graph(component), "float"),
            tensor_specs(graph.graph.inputs),
            tensor_specs(graph.graph.outputs),
        )

    def floats(self, changed: Mapping[str, Engine] | None = None) -> StandIns:
        """The float engines, some of them replaced."""
        return StandIns(self.bundle, {**self._floats, **(changed or {})})

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
        return replace(task, steps=steps) if steps is not None and isinstance(task, Painting) else task

    def know(self, pictures: Mapping[Case, FloatArray]) -> None:
        """Take over pictures that the float pipeline painted elsewhere."""
        self._pictures.update(pictures)
        self._references.update({(0, case): picture for case, picture in pictures.items()})

    def errors(self, engines: StandIns, cases: Sequence[Case]) -> list[NDArray[np.float64]]:
        """Mean squared difference to the float pipeline of each case, for each task."""
        references = [self._reference(i, cases) for i in range(len(self.tasks))]
        self.release()
        return [
            mean_square(self._paint(task, engines, cases), reference)
            for task, reference in zip(self.tasks, references, strict=True)
        ]

    def _reference(self, i: int, cases: Sequence[Case]) -> FloatArray:
        missing = [case for case in cases if (i, case) not in self._references]
        if missing:
            painted = self._paint(self.tasks[i], self.floats(), missing)
            self._references.update({(i, case): picture for case, picture in zip(missing, painted, strict=True)})
            if i == 0:
                self._pictures.update(zip(missing, painted, strict=True))
        return np.stack([self._references[i, case] for case in cases])

    def _paint(self, task: Task, engines: StandIns, cases: Sequence[Case]) -> FloatArray:
        batches = [cases[start : start + self.at_once] for start in range(0, len(cases), self.at_once)]
        painted: list[NDArray[Any]] = [task.paint(engines, batch) for batch in batches]
        return np.concatenate(painted)
