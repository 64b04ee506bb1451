"""Runtime: opens a bundle and runs its engines with NumPy alone.

    from diffoundry.runtime import load
    pipe = load("emoji.bundle")
    pipe("red apple", seed=0).images[0].save("apple.png")

Submodules load on first use, so `diffoundry.runtime.schedulers` and `diffoundry.runtime.random` can be
used alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffoundry.runtime.engines.protocol import EngineOptions
    from diffoundry.runtime.pipelines import load
    from diffoundry.runtime.pipelines.chain import chain
    from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline

__all__ = ["DiffusionPipeline", "EngineOptions", "chain", "errors", "load", "random", "schedulers"]

_LAZY = {
    "DiffusionPipeline": "diffoundry.runtime.pipelines.pipeline:DiffusionPipeline",
    "EngineOptions": "diffoundry.runtime.engines.protocol:EngineOptions",
    "chain": "diffoundry.runtime.pipelines.chain:chain",
    "load": "diffoundry.runtime.pipelines:load",
}


def __getattr__(name: str) -> Any:
    if name in ("errors", "random", "schedulers"):
        return import_module(f"{__name__}.{name}")
    if name not in _LAZY:
        from diffoundry.runtime.suggest import did_you_mean

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{did_you_mean(name, __all__)}")
    module, _, attribute = _LAZY[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return list(__all__)
