"""Engines that replace those of a bundle: fixed, proxied or cached."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import Array, Closeable, Engine
from diffoundry.runtime.engines.session import EngineSession

__all__ = ["CachedEngine", "EngineProxy", "FixedEngines"]

_MOST_CALLS = 512
"""Calls whose outputs are kept: latents and embeddings, some 100 MB for large models."""


class FixedEngines(EngineSession):
    """Session over engines passed in by the caller, for a pipeline to run."""

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine]) -> None:
        """Store the engines; the caller closes them.

        Args:
            bundle: Gives configs, tokenizers and the scheduler.
            engines: Component to engine, for every component that will run.
        """
        super().__init__(bundle)
        self._handed_in = dict(engines)

    def _open(self, name: str) -> Engine:
        return self._handed_in[name]

    def declared_inputs(self, name: str) -> tuple[TensorSpec, ...]:
        """See `EngineSession.declared_inputs`: those of the engine that was passed in, whatever a manifest says."""
        return self._handed_in[name].inputs if name in self._handed_in else ()

    def idle_inputs(self, name: str) -> frozenset[str]:  # noqa: ARG002
        """See `EngineSession.idle_inputs`: none, these engines take all inputs."""
        return frozenset()

    def close(self) -> None:
        """Leave the engines open."""


class EngineProxy(Closeable):
    """Wraps another engine and passes everything through; closing it closes the wrapped engine."""

    def __init__(self, engine: Engine) -> None:
        self.inner = engine
        self.inputs: tuple[TensorSpec, ...] = engine.inputs
        self.outputs: tuple[TensorSpec, ...] = engine.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the wrapped engine."""
        return self.inner.run(feeds)

    def close(self) -> None:
        """Close the wrapped engine."""
        self.inner.close()


class CachedEngine(Closeable):
    """Runs each call only once: repeated feeds return the stored outputs.

    Where only one component changes from image to image, the components before it need not run again. The engine is
    opened when a call is new, and may be released in between.
    """

    def __init__(
        self, open_engine: Callable[[], Engine], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        """Store the arguments. Nothing is opened yet."""
        self.inputs = inputs
        self.outputs = outputs
        self._open = open_engine
        self._inner: Engine | None = None
        self._calls: OrderedDict[bytes, dict[str, Array]] = OrderedDict()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for these feeds."""
        digest = hashlib.blake2b()
        for name, array in sorted(feeds.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        key = digest.digest()
        if key not in self._calls:
            if self._inner is None:
                self._inner = self._open()
            self._calls[key] = self._inner.run(feeds)
            if len(self._calls) > _MOST_CALLS:
                self._calls.popitem(last=False)
        return dict(self._calls[key])

    def release(self) -> None:
        """Close the wrapped engine and keep the stored outputs."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def close(self) -> None:
        """Close the wrapped engine and drop the stored outputs."""
        self.release()
        self._calls.clear()
