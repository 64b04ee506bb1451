"""StableUnCLIPImageNormalizer: the scale in which image embeddings are noised."""

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["StableUnCLIPImageNormalizer"]


class StableUnCLIPImageNormalizer:
    """Runs the normalizer. diffusers: `StableUnCLIPImageNormalizer`."""

    def __init__(self, session: EngineSession, component: str = "image_normalizer") -> None:
        """Look the component up; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no such component.
        """
        session.bundle.engines(component)
        self.component = component
        self._session = session

    def scale(self, embeds: FloatArray) -> FloatArray:
        """Return embeddings (B, D) with mean 0 and deviation 1."""
        return self._run(embeds, "scaled")

    def unscale(self, embeds: FloatArray) -> FloatArray:
        """Return embeddings (B, D) in CLIP's own scale."""
        return self._run(embeds, "unscaled")

    def _run(self, embeds: FloatArray, name: str) -> FloatArray:
        outputs = Outputs(self._session.run(self.component, {"embeds": embeds}), self.component)
        return outputs.take(name, embeds.shape)
