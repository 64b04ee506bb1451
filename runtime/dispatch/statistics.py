"""Counters of a dispatcher, for metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["ComponentStatistics", "Statistics", "add_call"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentStatistics:
    """The engine calls of one component.

    Attributes:
        calls: Calls of the engine.
        joined_calls: Those that served more than one request.
        requests: Calls that runs asked for; as many as `calls` where none was joined.
        rows: Rows of all calls.
        seconds: Time inside of the calls.
    """

    calls: int = 0
    joined_calls: int = 0
    requests: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """A snapshot. Counters begin with the dispatcher.

    Attributes:
        queued: Requests that wait now.
        active: Requests that run now.
        submitted: Requests that were accepted.
        done: Those that have a result.
        cancelled: Those that were cancelled.
        timed_out: Those whose time limit ran out.
        failed: Those that ended with another error.
        refused: Requests that the full queue did not take.
        steps: Finished steps of all requests.
        images: Images of those that are done.
        engine_calls: Calls of all engines.
        engine_rows: Rows of these calls.
        components: "bundle/component" to its calls.
        expected_wait: Seconds until a request that is submitted now would start.
    """

    queued: int = 0
    active: int = 0
    submitted: int = 0
    done: int = 0
    cancelled: int = 0
    timed_out: int = 0
    failed: int = 0
    refused: int = 0
    steps: int = 0
    images: int = 0
    engine_calls: int = 0
    engine_rows: int = 0
    components: Mapping[str, ComponentStatistics]
    expected_wait: float = 0.0


def add_call(before: ComponentStatistics, requests: int, rows: int, seconds: float) -> ComponentStatistics:
    """Return the counters after one more call that served a number of requests."""
    return replace(
        before,
        calls=before.calls + 1,
        joined_calls=before.joined_calls + (requests > 1),
        requests=before.requests + requests,
        rows=before.rows + rows,
        seconds=before.seconds + seconds,
    )
