"""The order of engine calls: the longest waiting first, and runs of one schedule are brought together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffoundry.runtime.dispatch.joining import EngineCall
from diffoundry.runtime.pipelines.run import Run

__all__ = ["Track", "choose_call", "join_calls", "track_of"]


@dataclass(kw_only=True, slots=True, eq=False)
class Track:
    """The place of a run in its schedule.

    Attributes:
        schedule: Runs with equal ones pass the same timesteps at the same size.
        remaining: Steps that it has before it.
        patience: Engine calls for which it still waits for runs behind it.
    """

    schedule: Any
    remaining: int
    patience: int

    def lags(self, other: "Track") -> bool:
        """Return whether `other` gains from waiting for this run.

        It is on the same schedule, and behind by no more steps than `other` has before it. Without waiting both would
        take turns, so `other` would end after as many engine calls: its own, and as many of this run.
        """
        behind = self.remaining - other.remaining
        return self.schedule == other.schedule and 0 < behind <= other.remaining


def track_of(run: Run[Any], pipeline: object) -> Track | None:
    """Return the place of a run that begins; None where its schedule is not that of one loop."""
    timesteps = getattr(run.scheduler, "timesteps", None)
    if timesteps is None or type(run) is not Run:
        return None
    size = run.arguments.get("height"), run.arguments.get("width")
    schedule = id(pipeline), tuple(float(one) for one in timesteps), size
    return Track(schedule=schedule, remaining=run.total, patience=run.total)


def choose_call(tracks: Sequence[Track | None]) -> int:
    """Return the index of the call that is made next.

    It is the one that waits longest, so every run advances in turn, however long it is. A run with others on its
    schedule behind it waits until they have caught up: from then on they share their calls. It waits for as many calls
    as it has steps at most.

    Args:
        tracks: The place of the run of each call, the longest waiting first; at least one. Their patience is used up
            here.
    """
    held: list[Track] = []
    index = 0
    for index, track in enumerate(tracks):  # noqa: B007  # the one furthest behind ends the loop
        if track is None or track.patience <= 0 or not any(other and other.lags(track) for other in tracks):
            break
        held.append(track)
    chosen = tracks[index]
    for track in held:
        if chosen is not None and chosen.lags(track):
            track.patience -= 1
    return index


def join_calls(waiting: Sequence[EngineCall], chosen: EngineCall, limit: int) -> list[EngineCall]:
    """Return the calls that are made together with the chosen one, itself first.

    Args:
        waiting: All calls, the longest waiting first.
        chosen: One of them.
        limit: Rows that they may have in all; the chosen one alone may have more.
    """
    joined, rows = [chosen], chosen.rows
    if chosen.key is None:
        return joined
    limit = min(limit, chosen.limit or limit)
    for call in waiting:
        if call is not chosen and call.key == chosen.key and rows + call.rows <= limit:
            joined.append(call)
            rows += call.rows
    return joined
