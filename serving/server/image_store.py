"""Keeps generated images for their URLs, in memory, for a limited time."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from diffoundry.serving.server.limits import Limits

__all__ = ["ImageStore", "StoredImage"]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image file.

    Attributes:
        data: Its bytes.
        media_type: Such as "image/png".
        expires: On the store's clock, in seconds.
    """

    data: bytes
    media_type: str
    expires: float


@dataclass(slots=True)
class ImageStore:
    """Images by an id of 256 random bits. The oldest make room for new ones.

    Attributes:
        limits: Bytes and seconds.
        clock: Seconds that only grow.
    """

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    _images: "OrderedDict[str, StoredImage]" = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, data: bytes, media_type: str) -> str:
        """Keep an image, and return its id."""
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._images[key] = StoredImage(data, media_type, self.clock() + self.limits.stored_seconds)
            self._bytes += len(data)
            self._drop()
        return key

    def get(self, key: str) -> StoredImage | None:
        """Return an image; None where there is none, or it expired."""
        with self._lock:
            self._drop()
            return self._images.get(key)

    @property
    def held_bytes(self) -> int:
        """Bytes of all images."""
        return self._bytes

    def _drop(self) -> None:
        """Forget what expired, and the oldest while there is too much; the newest always stays."""
        now = self.clock()
        while self._images:
            key, oldest = next(iter(self._images.items()))
            full = self._bytes > self.limits.stored_bytes and len(self._images) > 1
            if oldest.expires > now and not full:
                return
            del self._images[key]
            self._bytes -= len(oldest.data)
