"""Engines that are handed in, in the place of a bundle's own."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import Array, Closeable, Engine
from diffoundry.runtime.engines.session import EngineSession

__all__ = ["CachedEngine", "EngineProxy", "FixedEngines"]

_REMEMBERED = 512
"""Calls whose outputs are kept: latents and embeddings, of large models some 100 MB."""


class FixedEngines(EngineSession):
    """The components of a bundle whose engines are all handed in; a pipeline drives them as it would its own."""

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine]) -> None:
        """Take the engines; whoever opened them closes them.

        Args:
            bundle: For configs, tokenizers and the scheduler.
            engines: Component to engine, for every component that will run.
        """
        super().__init__(bundle)
        self._handed_in = dict(engines)

    def engine(self, name: str) -> Engine:
        """The engine that was handed in."""
        return self._handed_in[name]


class EngineProxy(Closeable):
    """An engine around another one that does nothing by itself; it is closed with the one inside."""

    def __init__(self, engine: Engine) -> None:
        self.inner = engine
        self.inputs: tuple[TensorSpec, ...] = engine.inputs
        self.outputs: tuple[TensorSpec, ...] = engine.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the engine inside."""
        return self.inner.run(feeds)

    def close(self) -> None:
        """Close the engine inside."""
        self.inner.close()


class CachedEngine(Closeable):
    """Runs a call only once: the same feeds again give the outputs of the first time.

    Where only one component changes from image to image, the others in front of it need not run again. The engine
    is opened when a call is new, and may be released in between.
    """

    def __init__(
        self, open_engine: Callable[[], Engine], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        """Nothing is opened yet."""
        self.inputs = inputs
        self.outputs = outputs
        self._open = open_engine
        self._inner: Engine | None = None
        self._calls: OrderedDict[bytes, dict[str, Array]] = OrderedDict()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for these feeds."""
        digest = hashlib.blake2b()
        for name, array in sorted(feeds.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        key = digest.digest()
        if key not in self._calls:
            if self._inner is None:
                self._inner = self._open()
            self._calls[key] = self._inner.run(feeds)
            if len(self._calls) > _REMEMBERED:
                self._calls.popitem(last=False)
        return dict(self._calls[key])

    def release(self) -> None:
        """Close the engine inside, and go on remembering."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def close(self) -> None:
        """Close the engine inside and forget."""
        self.release()
        self._calls.clear()
