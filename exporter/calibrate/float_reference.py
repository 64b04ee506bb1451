"""Generates reference images with the fp32 graphs, and candidate images with replaced engines."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import mean_square
from diffoundry.exporter.calibrate.engine_proxies import CachedEngine, FixedEngines
from diffoundry.exporter.calibrate.generation_tasks import ImageTask, PromptTask, ReconstructionTask
from diffoundry.exporter.calibrate.simulator import Simulator
from diffoundry.exporter.calibrate.split_graph import weight_bytes
from diffoundry.exporter.steps.graph_files import GRAPH_NAME
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import Engine
from diffoundry.runtime.pipelines import open_pipeline
from diffoundry.targets.base import tensor_specs

__all__ = ["FloatReference"]

FloatArray = NDArray[np.float32]

_TOKENS_AT_ONCE = 2048
"""Latent pixels per batch of images: small models generate eight at once, Stable Diffusion one."""

_MOST_AT_ONCE = 8

WHOLE_BYTES = 128 << 20
"""Bytes of weights up to which a network stays open; a larger one holds the weights of one part at a time."""


class FloatReference:
    """The float pipeline of a bundle, its tasks, and its generated images.

    Attributes:
        bundle: The bundle, which may be unfinished: graphs, configs, tokenizer and scheduler are enough.
        tasks: Image tasks; the first is the family's own.
        at_once: Images per batch.
    """

    def __init__(self, folder: Path, task: PromptTask, threads: int | None = None, worker: str | None = None) -> None:
        """Open the bundle. No engine is opened yet.

        Args:
            folder: Folder of the bundle.
            task: Task that generates the images.
            threads: Threads of one engine call, or None for ONNX Runtime's own choice.
            worker: As in `Simulator`.
        """
        self.bundle = Bundle(folder)
        self._images: dict[SeededPrompt, FloatArray] = {}
        self._simulators = {
            name: Simulator(folder / name, threads, in_parts=self.runs_in_parts(name), worker=worker)
            for name in self.bundle.components
        }
        self._references: dict[tuple[int, SeededPrompt], FloatArray] = {}
        self.tasks: list[ImageTask] = [task]
        if "vae_encoder" in self.bundle.components:
            self.tasks.append(ReconstructionTask(images=self._images))
        self._floats = {name: self._cached(name) for name in self.components}
        pipeline = open_pipeline(self.floats())
        height, width = pipeline.default_size
        factor = pipeline.scale_factor
        tokens = ((task.height or height) // factor) * ((task.width or width) // factor)
        self.at_once = max(1, min(_MOST_AT_ONCE, _TOKENS_AT_ONCE // tokens))

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components that the tasks run."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.components(self.bundle)))

    def runs_in_parts(self, component: str) -> bool:
        """Return whether each call of a component opens one part of its graph after another."""
        return weight_bytes(self.graph(component)) > WHOLE_BYTES

    def graph(self, component: str) -> ir.Model:
        """Load a component's portable graph from its file."""
        return ir.load(self.bundle.root / component / GRAPH_NAME)

    def open(self, component: str, model: ir.Model, name: str) -> Engine:
        """Open an engine for a graph whose weights are the component's."""
        return self._simulators[component].open(model, name)

    def _cached(self, component: str) -> CachedEngine:
        graph = self.graph(component)
        return CachedEngine(
            lambda: self.open(component, self.graph(component), "float"),
            tensor_specs(graph.graph.inputs),
            tensor_specs(graph.graph.outputs),
        )

    def floats(self, changed: Mapping[str, Engine] | None = None) -> FixedEngines:
        """Session over the float engines, some of them replaced."""
        return FixedEngines(self.bundle, {**self._floats, **(changed or {})})

    def release(self) -> None:
        """Close the float engines until they are needed again."""
        for engine in self._floats.values():
            engine.release()

    def close(self) -> None:
        """Close everything."""
        for engine in self._floats.values():
            engine.close()

    def task_for(self, component: str, steps: int | None) -> ImageTask:
        """Find the first task that runs a component, with at most `steps` denoising steps if given."""
        task = next(task for task in self.tasks if component in task.components(self.bundle))
        if steps is None or not isinstance(task, PromptTask):
            return task
        return replace(task, steps=min(steps, task.steps))

    def add_images(self, images: Mapping[SeededPrompt, FloatArray]) -> None:
        """Add images that the float pipeline generated elsewhere."""
        self._images.update(images)
        self._references.update({(0, prompt): image for prompt, image in images.items()})

    def images(self, prompts: Sequence[SeededPrompt]) -> dict[SeededPrompt, FloatArray]:
        """Return the images of prompts that the float pipeline has generated."""
        return {prompt: self._images[prompt] for prompt in prompts if prompt in self._images}

    def errors(self, engines: FixedEngines, prompts: Sequence[SeededPrompt]) -> list[NDArray[np.float64]]:
        """Mean squared difference of each prompt's image from the float pipeline's, for each task."""
        references = [self._reference(i, prompts) for i in range(len(self.tasks))]
        self.release()
        return [
            mean_square(self._generate(task, engines, prompts), reference)
            for task, reference in zip(self.tasks, references, strict=True)
        ]

    def _reference(self, i: int, prompts: Sequence[SeededPrompt]) -> FloatArray:
        missing = [prompt for prompt in prompts if (i, prompt) not in self._references]
        if missing:
            generated = self._generate(self.tasks[i], self.floats(), missing)
            self._references.update({(i, prompt): image for prompt, image in zip(missing, generated, strict=True)})
            if i == 0:
                self._images.update(zip(missing, generated, strict=True))
        return np.stack([self._references[i, prompt] for prompt in prompts])

    def _generate(self, task: ImageTask, engines: FixedEngines, prompts: Sequence[SeededPrompt]) -> FloatArray:
        batches = [prompts[start : start + self.at_once] for start in range(0, len(prompts), self.at_once)]
        generated: list[NDArray[Any]] = [task.generate(engines, batch) for batch in batches]
        return np.concatenate(generated)
