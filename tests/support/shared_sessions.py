"""Opens each ONNX Runtime session once, and reads each CLIP tokenizer once, for all tests of a process."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

__all__ = ["share_sessions", "share_tokenizer_files"]

_KEPT = 64
_LARGEST = 32 << 20
"""Bytes of a graph with its weights. Larger ones are not kept."""


@contextlib.contextmanager
def share_sessions() -> Iterator[None]:
    """Within this context, engines of the same unchanged files and options share a session.

    Many tests load the same bundle. A session has no state, and opening one takes longer than running a tiny network.
    """
    from diffoundry.targets.onnxruntime.run.engine import OnnxRuntimeEngine

    sessions: OrderedDict[Any, Any] = OrderedDict()
    plain = OnnxRuntimeEngine._open

    def shared(engine: OnnxRuntimeEngine, path: Path) -> Any:
        key = _key(engine, path)
        if key is None:
            return plain(engine, path)
        if key in sessions:
            engine._check(path)
        else:
            sessions[key] = plain(engine, path)
        sessions.move_to_end(key)
        while len(sessions) > _KEPT:
            sessions.popitem(last=False)
        return sessions[key]

    with mock.patch.object(OnnxRuntimeEngine, "_open", shared):
        yield


def _key(engine: Any, path: Path) -> Any:
    """Files that a session reads, with their times, and what it is opened with; None if they are large or missing."""
    spec = engine._spec
    if spec is None or not path.is_file():
        return None
    beside = spec.files if path == engine._base or spec.adapters is None else spec.adapters.files
    root = path.parents[len(Path(beside[0]).parts) - 1]
    files = {path, *(root / name for name in beside)}
    if not all(file.is_file() for file in files):
        return None
    facts = [(str(file), file.stat()) for file in sorted(files)]
    if sum(stat.st_size for _, stat in facts) > _LARGEST:
        return None
    listed = tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in facts)
    return listed, engine._options.threads, engine._options.device, engine._options.memory, engine._options.whole


@contextlib.contextmanager
def share_tokenizer_files() -> Iterator[None]:
    """Within this context, the unchanged files of a CLIP tokenizer are read and checked once."""
    from diffoundry.runtime.tokenizers import clip

    read: dict[Any, Any] = {}
    plain = clip.read_clip_files

    def shared(files: Mapping[str, Path], name: str) -> Any:
        if not all(path.is_file() for path in files.values()):
            return plain(files, name)
        stats = [(str(path), path.stat()) for path in sorted(files.values())]
        key = name, tuple((path, stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
        if key not in read:
            read[key] = plain(files, name)
        return read[key]

    with mock.patch.object(clip, "read_clip_files", shared):
        yield
