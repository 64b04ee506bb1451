"""SD3Transformer2DModel: the denoiser of Stable Diffusion 3."""

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.denoiser import PatchTransformer

__all__ = ["SD3Transformer2DModel"]


class SD3Transformer2DModel(PatchTransformer):
    """diffusers: `SD3Transformer2DModel`. Its ControlNets are not exported.

    Its conditioning: "encoder_hidden_states" (B, tokens, D) and "pooled_projections" (B, P).

    Attributes:
        width: D.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        self._read_shape(in_channels=16, out_channels=16, sample_size=128, heads=18, head_dim=64)
        self.width = integer(self._config, "joint_attention_dim", 4096, subject=self._subject)
