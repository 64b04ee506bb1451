"""The times of kernels that TensorRT measured on this GPU, kept between builds."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock

__all__ = ["TimingCache"]


class TimingCache:
    """Context in which a build uses the timing cache in a file and adds its measurements at the end.

    Several builds may share the file: each starts from what is there and adds its own, and the file is locked while it
    is written.
    """

    def __init__(self, path: str | None, config: Any) -> None:
        """Nothing is read yet; without a path the context does nothing.

        Args:
            path: The file, whose name holds version and GPU: the times of another one are worth nothing.
            config: The builder's.
        """
        self._path = None if path is None else Path(path)
        self._config = config

    def __enter__(self) -> Self:
        if self._path is not None:
            self._config.set_timing_cache(self._config.create_timing_cache(self._stored()), ignore_mismatch=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        measured = None if self._path is None or kind is not None else self._config.get_timing_cache()
        if self._path is None or measured is None:
            return
        with FileLock(f"{self._path}.lock"):
            measured.combine(self._config.create_timing_cache(self._stored()), ignore_mismatch=False)
            beside = self._path.with_name(f"{self._path.name}.new")
            beside.write_bytes(measured.serialize())
            beside.replace(self._path)

    def _stored(self) -> bytes:
        return self._path.read_bytes() if self._path is not None and self._path.is_file() else b""
