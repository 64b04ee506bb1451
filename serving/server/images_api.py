"""POST /v1/images/generations, edits and variations; the jobs that they make; and the URLs of their images."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from diffoundry.runtime.dispatch import Progress
from diffoundry.runtime.errors import (
    CancelledError,
    DiffoundryError,
    DispatcherClosedError,
    InputError,
    QueueFullError,
    TimeLimitError,
)
from diffoundry.serving.server.errors import ApiError, bad_parameter, from_error
from diffoundry.serving.server.image_call import ImageCall, prepare_call
from diffoundry.serving.server.jobs import Job, choose_id
from diffoundry.serving.server.read_request import read_body
from diffoundry.serving.server.results import (
    MEDIA_TYPES,
    answer,
    completed_events,
    encode_results,
    partial_events,
    sse,
)
from diffoundry.serving.server.state import ServerState

__all__ = ["cancel_job", "get_file", "get_job", "post_images"]

_SECONDS_BETWEEN = 1.0
"""Of two comments in a stream."""

_GONE = 499
"""nginx's status for a request whose client left, or here cancelled it."""


async def post_images(request: Request) -> Response:
    """Generate images, and answer with JSON, or with events where the client asks for a stream."""
    state: ServerState = request.app.state.server
    owner = state.keys.owner(request)
    if state.draining:
        raise ApiError(503, "the server is stopping; use another, or try again later", code="stopping", retry_after=10)
    job_id = choose_id(request.headers.get("x-request-id"))
    endpoint = request.url.path.rpartition("/")[2]
    with state.jobs.reserve(job_id):
        body = await read_body(request, state.limits, state.budget)
        call = await state.in_thread(prepare_call, endpoint, body, state.models, state.loras, state.limits)
        job = await _submit(state, call, job_id, owner)
    request.state.log.update(
        {"id": job.id, "model": call.model.name, "images": call.count, "size": f"{call.size[0]}x{call.size[1]}"}
    )
    if call.user:
        request.state.log["user"] = call.user
    if call.stream:
        headers = {"X-Request-Id": job.id, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(state, job), media_type="text/event-stream", headers=headers)
    try:
        output = await _result(request, job)
        return JSONResponse(await _answer(request, state, job, output), headers={"X-Request-Id": job.id})
    finally:
        state.jobs.end(job)


async def _submit(state: ServerState, call: ImageCall, job_id: str, owner: str) -> Job:
    """Hand a call to the dispatcher.

    Raises:
        ApiError: Its queue is full, or it takes no more.
    """

    def submit() -> Job:
        request = state.dispatcher.submit(
            call.model.pipeline, call.arguments, previews=call.previews, time_limit=state.limits.job_seconds,
            loras=dict(call.loras) or None,
        )  # fmt: skip
        return Job(id=job_id, owner=owner, call=call, dispatcher=state.dispatcher, request=request)

    try:
        job = await state.in_thread(submit)
    except DiffoundryError as error:
        raise api_error(error, call) from error
    state.jobs.add(job)
    return job


def api_error(error: BaseException, call: ImageCall) -> ApiError:
    """Return the error of a response for one of the dispatcher or of a run of a call."""
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full", retry_after=error.expected_wait)
    if isinstance(error, DispatcherClosedError):
        return ApiError(503, str(error), code="stopping", retry_after=10)
    if isinstance(error, TimeLimitError):
        return ApiError(504, str(error), code="time_limit")
    if isinstance(error, CancelledError):
        return ApiError(_GONE, str(error), code="cancelled")
    if isinstance(error, DiffoundryError):
        return _lora_error(error, call.loras) or from_error(error)
    return ApiError(500, "the server failed; its log says why", code="internal_error")


def _lora_error(error: DiffoundryError, loras: Mapping[str, float]) -> ApiError | None:
    """Return the error of a LoRA's file with the name that the client knows instead of the operator's path."""
    for path in loras:
        if isinstance(error, InputError) and path in str(error):
            message = str(error).removeprefix("LoRA ").replace(path, Path(path).name)
            return bad_parameter("loras", message)
    return None


async def _result(request: Request, job: Job) -> Any:
    """Wait for a run; cancel it when the client leaves.

    Raises:
        ApiError: It failed, or was cancelled.
    """
    gone = asyncio.create_task(_wait_for_disconnect(request))
    result = asyncio.ensure_future(_await_run(job))
    try:
        await asyncio.wait({gone, result}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            job.request.cancel()
        return await result
    except DiffoundryError as error:
        raise api_error(error, job.call) from error
    except asyncio.CancelledError as error:  # uvicorn's, when the time to finish is over
        raise _stopped() from error
    finally:
        job.request.cancel()
        gone.cancel()
        result.cancel()


def _stopped() -> ApiError:
    """Return the error of a job that was under way when the time to finish was over."""
    return ApiError(503, "the server stopped before this job ended; send it again", code="stopping", retry_after=10)


async def _await_run(job: Job) -> Any:
    return await job.request


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answer(request: Request, state: ServerState, job: Job, output: Any) -> dict[str, Any]:
    files = await state.in_thread(encode_results, job, output)
    if not job.call.urls:
        return answer(job, output, [(base64.b64encode(data).decode(), facts) for data, facts in files])
    media_type = MEDIA_TYPES[job.call.output_format]
    keys = [(state.store.add(data, media_type), facts) for data, facts in files]
    return answer(job, output, [(f"{request.base_url}v1/images/files/{key}", facts) for key, facts in keys])


async def _events(state: ServerState, job: Job) -> AsyncIterator[bytes]:
    """Yield the events of a job. Starlette closes this when the client leaves, which cancels the job."""
    number = 0
    try:
        async for progress in _steps(job):
            if isinstance(progress, str):
                yield f": {progress}\n\n".encode()
                continue
            yield f": step {progress.index + 1} of {progress.total}\n\n".encode()
            if progress.images is not None:
                for event in await state.in_thread(partial_events, job, progress.images, number):
                    yield event
                number += 1
        output = await job.request
        for event in await state.in_thread(completed_events, job, output):
            yield event
    except DiffoundryError as error:
        refusal = api_error(error, job.call)
        state.metrics.count_error(refusal.code)
        yield sse("error", refusal.body())
    except asyncio.CancelledError:  # uvicorn's, as in _result, or the client left and reads nothing
        if state.draining:
            yield sse("error", _stopped().body())
        raise
    finally:
        job.request.cancel()
        state.jobs.end(job)


async def _steps(job: Job) -> AsyncIterator[Progress | str]:
    """Yield the steps of a job, and in between each second a word, so that a client that left is noticed."""
    steps = aiter(job.request)

    async def following() -> Progress | None:
        return await anext(steps, None)

    while True:
        step = asyncio.create_task(following())
        try:
            while not (await asyncio.wait({step}, timeout=_SECONDS_BETWEEN))[0]:
                position = job.dispatcher.position(job.request)
                yield "running" if position is None else f"queued {position}"
            progress = step.result()
        finally:
            step.cancel()
        if progress is None:
            return
        yield progress


async def get_job(request: Request) -> Response:
    """Return the state of a job."""
    state: ServerState = request.app.state.server
    return JSONResponse(state.jobs.describe(request.path_params["job"], state.keys.owner(request)))


async def cancel_job(request: Request) -> Response:
    """Cancel a job; one that ended stays as it is."""
    state: ServerState = request.app.state.server
    job_id, owner = request.path_params["job"], state.keys.owner(request)
    state.jobs.cancel(job_id, owner)
    return JSONResponse(state.jobs.describe(job_id, owner))


async def get_file(request: Request) -> Response:
    """Return an image of an answer with URLs; its id is the permission."""
    state: ServerState = request.app.state.server
    found = state.store.get(request.path_params["key"])
    if found is None:
        raise ApiError(404, "image: there is none at this address, or it expired; generate it again", code="no_image")
    headers = {"Cache-Control": "private, max-age=3600", "Content-Disposition": "inline"}
    return Response(found.data, media_type=found.media_type, headers=headers)
