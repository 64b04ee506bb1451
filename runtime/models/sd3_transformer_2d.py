"""SD3Transformer2DModel: the denoiser of Stable Diffusion 3."""

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["SKIP_LAYERS", "SD3Transformer2DModel"]

SKIP_LAYERS = "skip_layers"
"""Input of the layers that are skipped, float32 (B, layers): 1 for one that is, 0 for others."""


class SD3Transformer2DModel(PatchTransformer):
    """diffusers: `SD3Transformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D), "pooled_projections" (B, P), the residuals of ControlNets
    where it takes any, and "skip_layers" (B, layers), none by default.

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

    @property
    def layers(self) -> int | None:
        """Number of layers that a call may skip; None for a bundle of an earlier version, whose graph skips none."""
        shapes = {spec.name: spec.shape for spec in self._session.inputs(self.component)}
        layers = shapes.get(SKIP_LAYERS, (None, None))[1]
        return layers if isinstance(layers, int) else None

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        layers = self.layers
        none = {} if layers is None else {SKIP_LAYERS: np.zeros((len(sample), layers), np.float32)}
        return super().__call__(sample, timestep, {**none, **conditioning})
