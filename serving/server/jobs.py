"""The jobs of a server by id, so that clients can look at them and cancel them."""

import contextlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.runtime.dispatch import Request as DispatchedRequest
from diffoundry.serving.server.errors import ApiError
from diffoundry.serving.server.image_call import ImageCall

__all__ = ["Job", "Jobs", "choose_id"]

_KEPT = 1000
"""Finished jobs whose state can still be asked for."""


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """One call under way.

    Attributes:
        id: As the client knows it.
        owner: As `ApiKeys.owner`; other clients do not see the job.
        call: The checked request.
        dispatcher: Runs it.
        request: That of the dispatcher.
    """

    id: str
    owner: str
    call: ImageCall
    dispatcher: Dispatcher
    request: DispatchedRequest

    def describe(self) -> dict[str, Any]:
        """Return the state for the client."""
        request = self.request
        error = request.error
        return {
            "id": self.id,
            "object": "job",
            "model": self.call.model.name,
            "status": request.state,
            "position": self.dispatcher.position(request),
            "step": request.done_steps,
            "total": request.total,
            "queued_seconds": round(request.queued_seconds, 3),
            "running_seconds": round(request.running_seconds, 3),
            "error": None if error is None or request.state != "failed" else str(error),
        }


@dataclass(slots=True)
class Jobs:
    """Jobs by id; of those that ended only the state is kept. Used by the event loop alone."""

    _active: dict[str, Job] = field(default_factory=dict)
    _reserved: set[str] = field(default_factory=set)
    _ended: "OrderedDict[tuple[str, str], dict[str, Any]]" = field(default_factory=OrderedDict)
    _ending: dict[tuple[str, str], Job] = field(default_factory=dict)

    @contextlib.contextmanager
    def reserve(self, job_id: str) -> Iterator[None]:
        """Keep an id for one request while its body is read and checked, until `add` in the block or the block's end.

        Raises:
            ApiError: A job under way has it, or another request.
        """
        if job_id in self._active or job_id in self._reserved:
            raise ApiError(
                409, f"X-Request-Id: a job with the id {job_id} is under way; choose another", param="X-Request-Id",
                code="job_exists",
            )  # fmt: skip
        self._reserved.add(job_id)
        try:
            yield
        finally:
            self._reserved.discard(job_id)

    def add(self, job: Job) -> None:
        """Keep a job until `end`."""
        self._active[job.id] = job

    def end(self, job: Job) -> None:
        """Forget a job and its images, but for its state; a cancelled one ends with its engine call under way."""
        if self._active.get(job.id) is job:
            del self._active[job.id]
        self._ending[job.owner, job.id] = job
        self._settle()

    def _settle(self) -> None:
        for key, job in list(self._ending.items()):
            if job.request.finished:
                self._ended[key] = job.describe()
                del self._ending[key]
        while len(self._ended) > _KEPT:
            self._ended.popitem(last=False)

    def describe(self, job_id: str, owner: str) -> dict[str, Any]:
        """Return the state of a client's job.

        Raises:
            ApiError: There is none of this id, or it is another client's.
        """
        self._settle()
        job = self._active.get(job_id) or self._ending.get((owner, job_id))
        if job is not None and job.owner == owner:
            return job.describe()
        if (owner, job_id) in self._ended:
            return self._ended[owner, job_id]
        raise ApiError(404, f"job {job_id[:64]!r}: there is none; jobs are kept for a while only", code="no_job")

    def cancel(self, job_id: str, owner: str) -> None:
        """Cancel a client's job; one that ended stays as it is."""
        job = self._active.get(job_id)
        if job is not None and job.owner == owner:
            job.request.cancel()


def choose_id(given: str | None) -> str:
    """Return the id that a client chose, or a new one.

    Raises:
        ApiError: The client's has other letters, or another length.
    """
    if given is None:
        return f"job-{secrets.token_hex(12)}"
    if not re.fullmatch(r"[A-Za-z0-9_-]{8,64}", given):
        raise ApiError(
            400, f"X-Request-Id: got {given[:64]!r}, expected 8 to 64 letters, digits, - and _", param="X-Request-Id",
            code="invalid_value",
        )  # fmt: skip
    return given
