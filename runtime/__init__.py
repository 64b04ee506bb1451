"""Run time: opens a bundle and drives its engines with NumPy alone.

    from diffoundry.runtime import load
    pipe = load("emoji.bundle")
    pipe("red apple", seed=0).images[0].save("apple.png")

What is named here is loaded when it is first used, so that `diffoundry.runtime.schedulers` or
`diffoundry.runtime.random` can be used alone.
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
