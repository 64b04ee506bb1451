"""Sensitivity on a Ray cluster: each worker measures one layer alone at a time."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.calibrate.sensitivity import Alone, AloneMeter, MeasureAlone
from diffoundry.exporter.calibrate.simulator import WORKER_FILES
from diffoundry.exporter.calibrate.trials import ImageTrials, MakeGraphs, SensitivitySettings
from diffoundry.exporter.steps.graph_files import GRAPH_NAME
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.cli.ray_workers import RayWorker, RayWorkers
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import DiffoundryError, InputError

__all__ = ["Opening", "SensitivityWorker", "measure_with_ray"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """Facts that a worker needs. Can be pickled.

    Attributes:
        folder: The unfinished bundle, at the same path on every machine.
        graphs: Component to the SHA-256 of its portable graph.
        request: Settings of the images.
        make: Makes the candidate graphs of the precision.
        prompts: Prompts that each layer generates.
        images: Those that the float pipeline of the command has generated for them.
    """

    folder: str
    graphs: Mapping[str, str]
    request: QuantizationRequest
    make: MakeGraphs
    prompts: tuple[SeededPrompt, ...]
    images: Mapping[SeededPrompt, NDArray[np.float32]]


class SensitivityWorker(RayWorker):
    """Measures layers alone in a process of Ray."""

    def prepare(self, opening: Opening) -> None:
        """Open the float pipeline of the bundle.

        Raises:
            InputError: This machine has other graphs, or none, at its path.
            DiffoundryError: It cannot be opened.
        """
        folder, machine = Path(opening.folder), socket.gethostname()
        for name, expected in opening.graphs.items():
            path = folder / name / GRAPH_NAME
            if not path.is_file() or sha256_of(path) != expected:
                raise InputError(
                    f"--ray: the worker on {machine} got no graph {path}, or another one, expected that of the "
                    f"command; export into a folder that every machine of the cluster shares"
                )
        reference = FloatReference(folder, opening.request.task, opening.request.threads, f"{machine}-{os.getpid()}")
        reference.add_images(opening.images)
        graphs = opening.make(reference.graph, reference.components)
        trials = ImageTrials(reference, graphs, SensitivitySettings(prompts=opening.prompts), lambda _message: None)
        self._meter = AloneMeter(trials, opening.prompts)

    def work(self, item: Alone) -> float | str:
        """Measure one layer alone; a text is the error of a user."""
        try:
            return self._meter(item)
        except DiffoundryError as error:
            return str(error)


@contextmanager
def measure_with_ray(
    request: QuantizationRequest, reference: FloatReference, make: MakeGraphs, prompts: Sequence[SeededPrompt]
) -> Iterator[MeasureAlone]:
    """Measure on a cluster while the block runs.

    Args:
        request: Settings of the images, and the address of the cluster.
        reference: The float pipeline of the command.
        make: As in `Opening`.
        prompts: Prompts that each layer generates.

    Raises:
        InputError: As `RayWorkers`.
    """
    folder = reference.bundle.root
    opening = Opening(
        folder=str(folder),
        graphs={name: sha256_of(folder / name / GRAPH_NAME) for name in reference.components},
        request=request,
        make=make,
        prompts=tuple(prompts),
        images=reference.images(prompts),
    )
    given = {"options": EngineOptions(threads=request.threads)}
    try:
        with RayWorkers(str(request.ray), SensitivityWorker, [], opening, given) as workers:
            yield lambda wanted: workers.work(wanted, lambda one: f"it measured {one.chunk[one.index].nodes[0]}")
    finally:
        for path in folder.glob(f"*/{WORKER_FILES}*"):  # of workers that ended with a graph open
            path.unlink(missing_ok=True)
