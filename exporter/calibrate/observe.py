"""Runs the float pipeline over prompts and records statistics of its tensors. Can be interrupted and resumed."""

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.statistics import Statistics
from diffoundry.exporter.calibrate.engine_proxies import FixedEngines
from diffoundry.exporter.calibrate.generation_tasks import ImageTask
from diffoundry.exporter.calibrate.split_graph import OpenGraph, SplitEngine, split_graph
from diffoundry.exporter.jobs.journal import Journal
from diffoundry.runtime.bundle.atomic_write import sync_file
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import Array, Engine

__all__ = ["Observation", "WatchedGraph", "observe"]

FloatArray = NDArray[np.float32]

_VERSION = 2
"""Version of the state on disk; a state of another version is discarded."""

_NOTE = "note"

_WATCHED, _WATCHED_OF_LARGE = 16, 2
"""Watched tensors that are in memory at a time, of small images and of those that are generated one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedGraph:
    """A component with watched tensors.

    Attributes:
        graph: Its float graph.
        axes: Tensor name to the axis of its channels, for every watched tensor.
        inputs: Inputs of the graph.
        outputs: Outputs of the graph.
    """

    graph: ir.Model
    axes: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """Result of an observation.

    Attributes:
        statistics: Component to the statistics of its tensors.
        images: Prompt to its image by the float pipeline, float32 (H, W, 3) in 0..1.
    """

    statistics: Mapping[str, Statistics]
    images: Mapping[SeededPrompt, FloatArray]


def observe(
    bundle: Bundle,
    task: ImageTask,
    prompts: Sequence[SeededPrompt],
    watched: Mapping[str, WatchedGraph],
    *,
    others: Mapping[str, Engine],
    open_graph: OpenGraph,
    state: Path,
    at_once: int = 1,
    progress: Callable[[str], None] = lambda _message: None,
) -> Observation:
    """Generate all prompts with the float pipeline and record every call of the watched components.

    The state is written after each batch. The same call in a new process continues after the last finished batch and
    ends with the same numbers, bit for bit.

    Args:
        bundle: Gives configs and tokenizers.
        task: Task that generates the images.
        prompts: Prompts to generate, in this order.
        watched: Component to its watched tensors.
        others: Engines of the unwatched components.
        open_graph: Opens an engine for a part of a graph.
        state: Folder for the state; created when missing.
        at_once: Images per batch.
        progress: Called with a message about the progress.

    Raises:
        EngineError: A tensor holds an infinity or a NaN.
    """
    saved = _SavedState(state, _fingerprint(task, prompts, watched, at_once), watched)
    done, statistics, images = saved.read()
    step = 0

    def at_step(index: int) -> None:
        nonlocal step
        step = index

    def look_into(component: str) -> Callable[[str, Array], None]:
        stepped = bundle.role(component) in task.stepped
        return lambda name, values: statistics[component].add(name, values, step if stepped else 0)

    watch_at_once = _WATCHED if at_once > 1 else _WATCHED_OF_LARGE
    engines = {name: _open(part, open_graph, look_into(name), name, watch_at_once) for name, part in watched.items()}
    try:
        start, first = time.perf_counter(), done
        while done < len(prompts):
            batch = prompts[done : done + at_once]
            generated = task.generate(FixedEngines(bundle, {**others, **engines}), batch, at_step)
            images += list(generated)
            done += len(batch)
            saved.write(done, statistics, images)
            progress(_progress_message(done, len(prompts), first, time.perf_counter() - start))
    finally:
        for engine in engines.values():
            engine.close()
    return Observation(statistics=statistics, images=dict(zip(prompts, images, strict=True)))


def _open(
    part: WatchedGraph, open_graph: OpenGraph, look: Callable[[str, Array], None], name: str, watch_at_once: int
) -> SplitEngine:
    inputs = {spec.name for spec in part.inputs}
    return SplitEngine(
        split_graph(part.graph, part.axes.keys() - inputs, at_once=watch_at_once),
        lambda graph, part_name: open_graph(graph, f"{name}-{part_name}"),
        look,
        inputs=part.inputs,
        outputs=part.outputs,
        watched_inputs=sorted(part.axes.keys() & inputs),
    )


def _fingerprint(
    task: ImageTask, prompts: Sequence[SeededPrompt], watched: Mapping[str, WatchedGraph], at_once: int
) -> str:
    """Hash everything that the numbers depend on, except the weights, which belong to the bundle."""
    options = {name: value for name, value in to_json(task).items() if not isinstance(value, Mapping)}
    axes = {name: dict(sorted(part.axes.items())) for name, part in sorted(watched.items())}
    described = [_VERSION, type(task).__name__, options, to_json(list(prompts)), axes, at_once]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _progress_message(done: int, total: int, first: int, seconds: float) -> str:
    left = seconds / (done - first) * (total - done)
    return f"observed {done} of {total} images, {seconds:.0f} s, about {left:.0f} s left"


class _SavedState:
    """The state of one observation on disk: the files of a number of images, and a note with the valid number."""

    def __init__(self, folder: Path, fingerprint: str, watched: Mapping[str, WatchedGraph]) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._watched = watched

    def read(self) -> tuple[int, dict[str, Statistics], list[FloatArray]]:
        """Read images done, statistics, images; empty when the state belongs to another observation or is damaged."""
        found = self._read()
        if found is not None:
            return found
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return 0, {name: Statistics(part.axes) for name, part in self._watched.items()}, []

    def _read(self) -> tuple[int, dict[str, Statistics], list[FloatArray]] | None:
        note = Journal(self._folder).recall(_NOTE, dict)
        if note is None or note.get("fingerprint") != self._fingerprint:
            return None
        try:
            done, parts = int(note["done"]), self._watched.items()
            folder = self._folder / str(done)
            statistics = {name: Statistics.load(folder / f"{name}.npz", part.axes) for name, part in parts}
            return done, statistics, list(np.load(folder / "images.npy", allow_pickle=False))
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, done: int, statistics: Mapping[str, Statistics], images: Sequence[FloatArray]) -> None:
        """Replace the state."""
        folder = self._folder / str(done)
        folder.mkdir(exist_ok=True)
        for name, part in statistics.items():
            part.save(folder / f"{name}.npz")
        np.save(folder / "images.npy", np.stack(images), allow_pickle=False)
        for path in folder.iterdir():
            sync_file(path)
        Journal(self._folder).note(_NOTE, {"fingerprint": self._fingerprint, "done": done})
        for path in self._folder.iterdir():
            if path.is_dir() and path != folder:
                shutil.rmtree(path)
