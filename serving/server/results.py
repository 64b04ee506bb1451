"""Answers of the images API: JSON of finished images, and server-sent events while they are generated."""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from diffoundry.runtime.cli.image_settings import ImageSettings
from diffoundry.runtime.images.save import encode_image
from diffoundry.serving.server.jobs import Job
from diffoundry.serving.server.parameter_table import CALL_ARGUMENTS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MEDIA_TYPES", "answer", "completed_events", "encode_results", "partial_events", "sse"]

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

_USAGE = {
    "input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}, "output_tokens": 0,
    "total_tokens": 0,
}  # fmt: skip
"""OpenAI's counts of tokens that are paid for: nothing is."""

_EVENTS = {"generations": "image_generation", "edits": "image_edit", "variations": "image_generation"}
"""Endpoint to the first half of the names of its events; OpenAI's variations have none."""


def encode_results(job: Job, output: Any) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the file of each image, with its settings inside, and facts about it. Runs in a thread.

    Args:
        job: Finished.
        output: The `PipelineOutput`.
    """
    call, run = job.call, job.request.run
    assert run is not None, "it ended well"
    names = [name for name in ("prompt", *CALL_ARGUMENTS) if name in call.model.pipeline.argument_names]
    names += ["height", "width", call.model.pipeline.image_count_argument]
    kept = ImageSettings.of_run(call.model.pipeline, run, call.settings, names, frozenset())
    flags = output.nsfw_content_detected or [False] * kept.count
    found = []
    for index, (image, flagged) in enumerate(zip(output.images, flags, strict=True)):
        data = encode_image(image, f"image.{call.output_format}", kept.of_image(index), call.quality)
        facts = {"seed": kept.seed(index), **({"nsfw_content_detected": True} if flagged else {})}
        found.append((data, facts))
    return found


def answer(job: Job, output: Any, images: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return OpenAI's answer.

    Args:
        job: Finished.
        output: The `PipelineOutput`.
        images: For each image its base64 text or its URL, and facts about it.
    """
    key = "url" if job.call.urls else "b64_json"
    body: dict[str, Any] = {
        "created": int(time.time()),
        "background": "transparent" if job.call.model.pipeline.transparent else "opaque",
        "data": [{key: text, **facts} for text, facts in images],
        "output_format": job.call.output_format,
        "size": _size(output.images[0]),
        "usage": _USAGE,
    }
    cut = [text for text in output.truncated if text]
    if cut:
        body["warnings"] = [f"the text encoder takes fewer tokens; this part of the prompt is cut off: {cut[0]!r}"]
    return body


def partial_events(job: Job, images: "Sequence[Image]", number: int) -> list[bytes]:
    """Return an event for the preview of each image.

    Args:
        job: Under way.
        images: Previews.
        number: Of this preview, from 0.
    """
    found = []
    for index, image in enumerate(images):
        buffer = BytesIO()
        image.save(buffer, format=job.call.output_format.upper())
        facts = _facts(job, image, buffer.getvalue()) | {"partial_image_index": number, "image_index": index}
        found.append(sse(f"{_EVENTS[job.call.endpoint]}.partial_image", facts))
    return found


def completed_events(job: Job, output: Any) -> list[bytes]:
    """Return an event for each finished image. Runs in a thread."""
    found = []
    for index, (image, (data, facts)) in enumerate(zip(output.images, encode_results(job, output), strict=True)):
        body = _facts(job, image, data) | {"usage": _USAGE, "image_index": index, **facts}
        found.append(sse(f"{_EVENTS[job.call.endpoint]}.completed", body))
    return found


def _facts(job: Job, image: "Image", data: bytes) -> dict[str, Any]:
    return {
        "b64_json": base64.b64encode(data).decode(),
        "background": "transparent" if job.call.model.pipeline.transparent else "opaque",
        "created_at": int(time.time()),
        "output_format": job.call.output_format,
        "quality": "auto",
        "size": _size(image),
    }


def _size(image: "Image") -> str:
    return f"{image.width}x{image.height}"


def sse(name: str, body: Mapping[str, Any]) -> bytes:
    """Return one server-sent event, with its name as `type`, too."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **body})}\n\n".encode()
