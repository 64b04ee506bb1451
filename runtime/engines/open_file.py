"""Opens the file of an engine with its target."""

from pathlib import Path

from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.engines.protocol import AdapterWeights, Engine, EngineOptions
from diffoundry.runtime.errors import DiffoundryError, EngineError

__all__ = ["open_file"]


def open_file(
    target: str, path: Path, spec: EngineSpec | None, options: EngineOptions, adapters: AdapterWeights | None
) -> Engine:
    """Open an engine.

    Args:
        target: Name of the target that runs it.
        path: Its first file.
        spec: Its manifest entry, or None for a folder without a manifest.
        options: With a device.
        adapters: Adapters that it begins with, or None.

    Raises:
        EngineError: The target cannot open it.
    """
    begin = {} if adapters is None else {"adapters": adapters}
    open_engine = find_plugin(target).load("engine")
    try:
        engine: Engine = open_engine(path, spec, options, **begin)
    except DiffoundryError:
        raise
    except Exception as error:  # options of an untrusted manifest reach libraries that raise anything
        raise EngineError(
            f"engine {path}: {target} cannot open it ({type(error).__name__}: {str(error)[:500]}); its options in "
            f"the manifest do not fit, export the bundle again"
        ) from error
    return engine
