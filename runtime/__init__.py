"""Runtime: opens a bundle and runs its engines with NumPy alone.

    from diffoundry.runtime import load
    pipe = load("emoji.bundle")
    pipe("red apple", seed=0).images[0].save("apple.png")

Submodules load on first use, so `diffoundry.runtime.schedulers` and `diffoundry.runtime.random` can be
used alone.
"""

from typing import TYPE_CHECKING, Any

from diffoundry.runtime.engines.plugins import resolve

if TYPE_CHECKING:
    from diffoundry.runtime.engines.protocol import EngineOptions
    from diffoundry.runtime.pipelines import load

__all__ = ["EngineOptions", "load"]

_LAZY = {
    "EngineOptions": "diffoundry.runtime.engines.protocol:EngineOptions",
    "load": "diffoundry.runtime.pipelines:load",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_LAZY[name])
