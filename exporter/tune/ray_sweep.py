"""The search of `tune` on a Ray cluster: each worker measures one image of one approximation at a time."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diffoundry.exporter.tune.approximation import Approximation
from diffoundry.exporter.tune.measure import Distance, Exact
from diffoundry.exporter.tune.search import Measure, MeasureHere
from diffoundry.exporter.verify.request import Settings, VerifyRequest
from diffoundry.exporter.verify.variants import find_variants
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.ray_workers import RayWorker, RayWorkers
from diffoundry.runtime.errors import DiffoundryError, InputError
from diffoundry.runtime.pipelines import open_pipeline

__all__ = ["SweepWorker", "measure_with_ray"]

_Opening = tuple[str, VerifyRequest, str, Settings, Exact]


class SweepWorker(RayWorker):
    """Measures approximations in a process of Ray."""

    def prepare(self, opening: _Opening) -> None:
        """Open the bundle, with the engines of the command.

        Raises:
            InputError: This machine chooses others.
            DiffoundryError: It cannot be opened.
        """
        path, request, engines, settings, exact = opening
        variant = find_variants(Bundle(path), request)[0][0]
        if variant.name != engines:
            raise InputError(
                f"--ray: the worker on {socket.gethostname()} would use {variant.name}, expected {engines} as the "
                f"command; pass --target and --precision"
            )
        self._measure = MeasureHere(open_pipeline(variant.components, safety_checker=None), settings, exact)

    def work(self, item: tuple[Approximation, int]) -> Distance | DiffoundryError:
        """Measure one image of one approximation."""
        found = self._measure.one(*item)
        return InputError(str(found)) if isinstance(found, DiffoundryError) else found  # others cannot be pickled


class _MeasureOnCluster:
    """Measures with the workers of a cluster; see `Measure`."""

    def __init__(self, workers: RayWorkers) -> None:
        self.at_once = workers.count
        self._workers = workers

    def __call__(self, wanted: Sequence[tuple[Approximation, int]]) -> Iterator[tuple[int, Distance | DiffoundryError]]:
        """See `Measure`."""
        return self._workers.work(wanted, lambda one: f"it measured {one[0].text}")


@contextmanager
def measure_with_ray(
    address: str, bundle: Bundle, request: VerifyRequest, engines: str, settings: Settings, exact: Exact
) -> Iterator[Measure]:
    """Measure on a cluster while the block runs.

    Args:
        address: Of the cluster, as `RayWorkers` takes it.
        bundle: The bundle, at the same path on every machine.
        request: Names the engines.
        engines: Target and precision that the command found.
        settings: Of the exact loop.
        exact: Its images.

    Raises:
        InputError: As `RayWorkers`.
    """
    given = {"target": request.target, "options": request.options}
    opening = str(bundle.root), request, engines, settings, exact
    with RayWorkers(address, SweepWorker, [bundle.root], opening, given) as workers:
        yield _MeasureOnCluster(workers)
