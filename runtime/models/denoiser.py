"""Bases of denoisers: run one engine a step, with the members of `Denoiser` that most networks share."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy.typing as npt

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.outputs import only_output
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import MAX_SIDE, integer
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.controlnet import is_residual
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.sample_size import read_sample_size

__all__ = ["DenoiserNetwork", "PatchTransformer"]


class DenoiserNetwork:
    """A `Denoiser` over latents (B, C, h, w) with one output.

    A subclass reads `in_channels`, `out_channels` and `first_channels` from the config, and overrides only the members
    that its network has otherwise.

    Attributes:
        component: Name of the component.
        sample_input: Input for noisy latents, as diffusers' `forward` names it.
    """

    sample_input: ClassVar[str] = "sample"

    in_channels: int
    out_channels: int
    first_channels: int
    sample_size: tuple[int, int] | None = None
    patch_size: int = 1

    def __init__(self, session: EngineSession, component: str | None = None) -> None:
        """Read the file of the config; the engine is opened when first needed.

        Args:
            session: The engines.
            component: Name of the component; None for the denoiser.

        Raises:
            BundleError: The bundle has no such component, or no config of it.
        """
        self.component = session.bundle.component(DENOISER) if component is None else component
        self._session = session
        self._config = session.bundle.config(self.component)
        self._subject = f"{self.component}/config.json"

    @property
    def embeds_guidance(self) -> bool:
        """See `Denoiser`: False unless a subclass embeds it."""
        return False

    @property
    def residual_inputs(self) -> tuple[TensorSpec, ...]:
        """See `Denoiser`; none where the checkpoint was exported without ControlNets."""
        return tuple(spec for spec in self._session.inputs(self.component) if is_residual(spec.name))

    @property
    def token_limit(self) -> int | None:
        """See `Denoiser`; None without text."""
        shapes = {spec.name: spec.shape for spec in self._session.declared_inputs(self.component)}
        tokens = shapes.get("encoder_hidden_states", (None, None))[1]
        return tokens if isinstance(tokens, int) else None

    def latent_shape(self, batch: int, height: int, width: int, vae: AutoencoderKL) -> tuple[int, ...]:
        """See `Denoiser`: as many channels as the VAE has."""
        return batch, vae.latent_channels, height // vae.scale_factor, width // vae.scale_factor

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:  # noqa: ARG002
        """See `Denoiser`: None, its schedule is not shifted."""
        return None

    def embed_guidance(self, scale: float) -> Feeds:
        """See `Denoiser`; never called where `embeds_guidance` is False."""
        raise NotImplementedError

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        feeds = {self.sample_input: sample, "timestep": time_feed(timestep), **conditioning}
        return self._run(feeds, (len(sample), self.out_channels, *sample.shape[2:]))

    def _run(self, feeds: Mapping[str, npt.NDArray[Any]], shape: tuple[int, ...]) -> FloatArray:
        """Run the engine and return its only output.

        Args:
            feeds: Name of each input to its array.
            shape: Expected shape of the output.

        Raises:
            EngineError: The graph has other inputs or outputs.
        """
        return only_output(self._session.run(self.component, feeds), self.component, shape)


class PatchTransformer(DenoiserNetwork):
    """A `Denoiser` over latents (B, C, h, w), which it cuts into patches itself: one token each."""

    sample_input = "hidden_states"

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:
        """See `Denoiser`: one for each patch."""
        return (shape[2] // self.patch_size) * (shape[3] // self.patch_size)

    def _read_shape(
        self,
        *,
        in_channels: int,
        out_channels: int | None,
        sample_size: int | None,
        heads: int,
        head_dim: int,
        patch_size: int = 2,
    ) -> None:
        """Read the fields of the config that most transformers of diffusers have.

        Args:
            in_channels: Default of diffusers for `in_channels`, as are the others.
            out_channels: For `out_channels`; null means as many as `in_channels`.
            sample_size: For `sample_size`.
            heads: For `num_attention_heads`.
            head_dim: For `attention_head_dim`.
            patch_size: For `patch_size`.

        Raises:
            ConfigError: A value has another type, or is out of range.
        """
        config, subject = self._config, self._subject
        self.in_channels = integer(config, "in_channels", in_channels, subject=subject)
        given = integer({"out_channels": out_channels, **config}, "out_channels", None, subject=subject)
        self.out_channels = self.in_channels if given is None else given
        self.sample_size = read_sample_size(config, sample_size, subject)
        self.patch_size = integer(config, "patch_size", patch_size, subject=subject, maximum=MAX_SIDE)
        heads = integer(config, "num_attention_heads", heads, subject=subject)
        self.first_channels = heads * integer(config, "attention_head_dim", head_dim, subject=subject)
