"""Runs the float pipeline over prompts and takes down what its tensors hold; can be stopped and taken up."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from diffoundry.calibration.stages import OpenGraph, StagedEngine, cut_into_stages
from diffoundry.calibration.stand_ins import FixedEngines
from diffoundry.calibration.statistics import Statistics
from diffoundry.calibration.tasks import Case, Task
from diffoundry.runtime.bundle.atomic_write import write_text
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import Array, Engine
from diffoundry.runtime.models.controlnet_names import is_controlnet

__all__ = ["Observed", "Watched", "observe"]

FloatArray = NDArray[np.float32]

_VERSION = 1
"""Of the state on disk; a state of another version is not taken up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A component that is looked into.

    Attributes:
        graph: Its float graph.
        axes: Tensor name to the axis of its channels, for every tensor to look at.
        inputs: Of the graph.
        outputs: Of the graph.
    """

    graph: ir.Model
    axes: Mapping[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What came of it.

    Attributes:
        statistics: Component to what its tensors held.
        images: Case to its image by the float pipeline, float32 (H, W, 3) in 0..1.
    """

    statistics: Mapping[str, Statistics]
    images: Mapping[Case, FloatArray]


def observe(
    bundle: Bundle,
    task: Task,
    cases: Sequence[Case],
    watched: Mapping[str, Watched],
    *,
    others: Mapping[str, Engine],
    open_graph: OpenGraph,
    state: Path,
    at_once: int = 1,
    tell: Callable[[str], None] = lambda _words: None,
) -> Observed:
    """Generate all cases with the float pipeline and take down every call of the watched components as it happens.

    After each batch the state is written; the same call in a new process goes on behind the last batch that was
    finished, and ends with the same numbers, bit for bit.

    Args:
        bundle: For configs and tokenizers.
        task: Task that generates the images.
        cases: Prompts and settings to generate, in this order.
        watched: Component to what is looked at in it.
        others: Engines of the components that run unwatched.
        open_graph: Opens an engine for a part of a graph.
        state: A folder for the state; made when missing.
        at_once: Images to a batch.
        tell: Told how far it is.

    Raises:
        EngineError: A tensor holds an infinity or a NaN.
    """
    diary = _Diary(state, _fingerprint(task, cases, watched, at_once), watched)
    done, statistics, images = diary.read()
    step = 0

    def at_step(index: int) -> None:
        nonlocal step
        step = index

    def look_into(component: str) -> Callable[[str, Array], None]:
        stepped = component in task.stepped or is_controlnet(component)
        return lambda name, values: statistics[component].add(name, values, step if stepped else 0)

    engines = {name: _open(part, open_graph, look_into(name), name) for name, part in watched.items()}
    try:
        start, first = time.perf_counter(), done
        while done < len(cases):
            batch = cases[done : done + at_once]
            generated = task.generate(FixedEngines(bundle, {**others, **engines}), batch, at_step)
            images += list(generated)
            done += len(batch)
            diary.write(done, statistics, images)
            tell(_progress(done, len(cases), first, time.perf_counter() - start))
    finally:
        for engine in engines.values():
            engine.close()
    return Observed(statistics=statistics, images=dict(zip(cases, images, strict=True)))


def _open(part: Watched, open_graph: OpenGraph, look: Callable[[str, Array], None], name: str) -> StagedEngine:
    inputs = {spec.name for spec in part.inputs}
    return StagedEngine(
        cut_into_stages(part.graph, part.axes.keys() - inputs),
        lambda graph, stage: open_graph(graph, f"{name}-{stage}"),
        look,
        inputs=part.inputs,
        outputs=part.outputs,
        watched_inputs=sorted(part.axes.keys() & inputs),
    )


def _fingerprint(task: Task, cases: Sequence[Case], watched: Mapping[str, Watched], at_once: int) -> str:
    """Changes with everything that the numbers depend on but the weights, which belong to the bundle."""
    options = {name: value for name, value in to_json(task).items() if not isinstance(value, Mapping)}
    axes = {name: dict(sorted(part.axes.items())) for name, part in sorted(watched.items())}
    described = [_VERSION, type(task).__name__, options, to_json(list(cases)), axes, at_once]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _progress(done: int, total: int, first: int, seconds: float) -> str:
    left = seconds / (done - first) * (total - done)
    return f"observed {done} of {total} images, {seconds:.0f} s, about {left:.0f} s left"


class _Diary:
    """The state of one observation on disk: the files of a number of images, and a note of which number holds."""

    def __init__(self, folder: Path, fingerprint: str, watched: Mapping[str, Watched]) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._watched = watched

    def read(self) -> tuple[int, dict[str, Statistics], list[FloatArray]]:
        """Images done, statistics, images; none when the state on disk is of another observation."""
        note = self._folder / "note.json"
        found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        if found.get("fingerprint") != self._fingerprint:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            return 0, {name: Statistics(part.axes) for name, part in self._watched.items()}, []
        folder = self._folder / str(found["done"])
        statistics = {name: Statistics.load(folder / f"{name}.npz", part.axes) for name, part in self._watched.items()}
        return found["done"], statistics, list(np.load(folder / "images.npy", allow_pickle=False))

    def write(self, done: int, statistics: Mapping[str, Statistics], images: Sequence[FloatArray]) -> None:
        """Replace the state."""
        folder = self._folder / str(done)
        folder.mkdir(exist_ok=True)
        for name, part in statistics.items():
            part.save(folder / f"{name}.npz")
        np.save(folder / "images.npy", np.stack(images), allow_pickle=False)
        write_text(self._folder / "note.json", json.dumps({"fingerprint": self._fingerprint, "done": done}))
        for path in self._folder.iterdir():
            if path.is_dir() and path != folder:
                shutil.rmtree(path)
