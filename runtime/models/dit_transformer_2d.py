"""DiTTransformer2DModel: the denoiser of DiT, a transformer over patches of latents, with classes."""

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.denoiser import PatchTransformer

__all__ = ["DiTTransformer2DModel"]


class DiTTransformer2DModel(PatchTransformer):
    """diffusers: `DiTTransformer2DModel`.

    Its conditioning: "class_labels", int32 (B,).

    Attributes:
        class_count: Number of classes; the number after the last is that of no class.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        self._read_shape(in_channels=4, out_channels=None, sample_size=32, heads=16, head_dim=72)
        self.class_count = integer(self._config, "num_embeds_ada_norm", 1000, subject=self._subject)

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:  # noqa: ARG002
        """See `Denoiser`: None, no schedule of DiT is shifted."""
        return None
