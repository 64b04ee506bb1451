"""Lets a dispatcher make the engine calls of a thread."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from diffoundry.runtime.engines.protocol import Array

if TYPE_CHECKING:
    from diffoundry.runtime.engines.session import EngineSession

__all__ = ["CALL_HOOK"]

CALL_HOOK: "ContextVar[Callable[[EngineSession, str, Mapping[str, Array]], dict[str, Array]] | None]" = ContextVar(
    "CALL_HOOK", default=None
)
"""Makes the calls of `EngineSession.run` in this thread instead; None makes them directly."""
