"""Numbers for Prometheus: requests, errors, and those of the dispatcher, which are read when they are asked for."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.serving.server.image_store import ImageStore

__all__ = ["Metrics"]

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    """The registry of one server."""

    def __init__(self, dispatcher: Dispatcher, store: ImageStore) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "diffoundry_http_requests", "Answered requests.", ("path", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "diffoundry_http_request_seconds", "Time from request to answer.", ("path",), buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._errors = Counter(
            "diffoundry_errors", "Answers that were errors, by their code.", ("code",), registry=self.registry
        )
        self.registry.register(_DispatcherCollector(dispatcher, store))
        ProcessCollector(registry=self.registry)

    def count_request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Count an answer; `path` is that of a route, never one of a client's choice."""
        self._requests.labels(path, method, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_error(self, code: str) -> None:
        """Count an error."""
        self._errors.labels(code).inc()

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class _DispatcherCollector(Collector):
    """Reads the statistics of a dispatcher."""

    def __init__(self, dispatcher: Dispatcher, store: ImageStore) -> None:
        self._dispatcher, self._store = dispatcher, store

    def collect(self) -> Iterator[Metric]:
        """Yield each number."""
        now = self._dispatcher.statistics()
        yield GaugeMetricFamily("diffoundry_jobs_queued", "Jobs that wait.", now.queued)
        yield GaugeMetricFamily("diffoundry_jobs_active", "Jobs under way.", now.active)
        yield GaugeMetricFamily("diffoundry_expected_wait_seconds", "Wait of a job submitted now.", now.expected_wait)
        yield GaugeMetricFamily("diffoundry_stored_bytes", "Images kept for URLs.", self._store.held_bytes)
        jobs = CounterMetricFamily("diffoundry_jobs", "Jobs by how they ended.", labels=("state",))
        for name in ("submitted", "done", "cancelled", "failed", "refused", "timed_out"):
            jobs.add_metric([name], getattr(now, name))
        yield jobs
        yield CounterMetricFamily("diffoundry_steps", "Steps of the noise schedulers.", now.steps)
        yield CounterMetricFamily("diffoundry_images", "Finished images.", now.images)
        yield from _components(now)


def _components(now: object) -> Iterator[Metric]:
    """Yield the numbers of each component."""
    labels = ("component",)
    seconds = CounterMetricFamily("diffoundry_component_seconds", "Seconds in calls of an engine.", labels=labels)
    calls = CounterMetricFamily("diffoundry_component_calls", "Calls of an engine.", labels=labels)
    rows = CounterMetricFamily("diffoundry_component_rows", "Rows of these calls.", labels=labels)
    for name, one in getattr(now, "components", {}).items():
        seconds.add_metric([name], one.seconds)
        calls.add_metric([name], one.calls)
        rows.add_metric([name], one.rows)
    yield from (seconds, calls, rows)
