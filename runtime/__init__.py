"""Run time: opens a bundle and drives its engines with NumPy alone.

from diffoundry.runtime import load
pipe = load("emoji.bundle")
pipe("red apple", seed=0).images[0].save("apple.png")
"""

from diffoundry.runtime.engine import EngineOptions
from diffoundry.runtime.pipelines import load

__all__ = ["EngineOptions", "load"]
