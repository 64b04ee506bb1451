"""The limits of a server, as the operator sets them."""

from dataclasses import dataclass

__all__ = ["Limits"]

_MEGABYTE = 10**6


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Everything that bounds the work and memory which a client can cause.

    Attributes:
        body_bytes: Of one request.
        held_bytes: Of the bodies of all requests that are being read.
        body_seconds: Until the body of a request has arrived.
        header_seconds: Until the headers of a request have arrived.
        write_seconds: That a client may leave a response unread.
        image_pixels: Of all images of one request together, decoded.
        result_pixels: Height times width of one result.
        fields: Fields of a form.
        files: Files of a form.
        queue: Jobs that wait, of all models.
        job_seconds: Of one job, waiting included; None for no limit.
        drain_seconds: That jobs may take to finish when the server stops.
        connections: Open at once. Those beyond get the state of the server alone, and there are few of them.
        stored_bytes: Of the images that URLs serve; 0 refuses URLs.
        stored_seconds: Until such a URL expires; OpenAI's are valid for 60 minutes.
    """

    body_bytes: int = 50 * _MEGABYTE
    held_bytes: int = 200 * _MEGABYTE
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    write_seconds: float = 60.0
    image_pixels: int = 32 * _MEGABYTE
    result_pixels: int = 2048 * 2048
    fields: int = 100
    files: int = 16
    queue: int = 64
    job_seconds: float | None = None
    drain_seconds: float = 30.0
    connections: int = 256
    stored_bytes: int = 256 * _MEGABYTE
    stored_seconds: float = 3600.0
