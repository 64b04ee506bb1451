"""UNet2DConditionModel: the denoiser of Stable Diffusion 1, 2 and XL, and of most older systems."""

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import integer, integers
from diffoundry.runtime.models.attention_control import CROSS_MAP, neutral_feeds
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.controlnet import is_residual
from diffoundry.runtime.models.guidance_embedding import guidance_embedding
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.sample_size import HINT_CHANNELS, pixel_channels, read_sample_size

__all__ = ["UNet2DConditionModel"]

_CHANNELS = (320, 640, 1280, 1280)
"""Default of diffusers for `block_out_channels`."""

_LEAST_WIDTH = 4
"""Smallest `time_cond_proj_dim`: the frequencies of the embedding are divided by half of it, less one."""


class UNet2DConditionModel:
    """A `Denoiser` over latents or pixels (B, C, h, w). diffusers: `UNet2DConditionModel`.

    Its conditioning, each where the network has it: "encoder_hidden_states" (B, tokens, D) and "attention_mask"
    (B, tokens); "class_labels", numbers (B,) or vectors (B, D); "timestep_cond" (B, D), of distilled checkpoints the
    guidance scale; what diffusers passes in `added_cond_kwargs`: "text_embeds" (B, P), "time_ids" (B, 6),
    "image_embeds" (B, P) and "hint" (B, 3, H, W); and the residuals of ControlNets.

    It is no `DenoiserNetwork`, so that text to image is read in few files.
    """

    patch_size = 1

    def __init__(self, session: EngineSession, component: str | None = None) -> None:
        """Read the config; the engine is opened when first needed.

        Args:
            session: The engines.
            component: Name of the component; None for the denoiser.

        Raises:
            BundleError: The bundle has no such component, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        self.component = session.bundle.component(DENOISER) if component is None else component
        config, subject = session.bundle.config(self.component), f"{self.component}/config.json"
        hint = HINT_CHANNELS if config.get("addition_embed_type") == "image_hint" else 0
        self.in_channels = integer(config, "in_channels", 4, subject=subject, minimum=hint + 1) - hint
        self.out_channels = integer(config, "out_channels", 4, subject=subject)
        self.sample_size = read_sample_size(config, None, subject)
        self.first_channels = integers(config, "block_out_channels", _CHANNELS, subject=subject)[0]
        self._guidance_width = integer(config, "time_cond_proj_dim", None, subject=subject, minimum=_LEAST_WIDTH)
        self._session = session
        self._takes_edits: bool | None = None

    @property
    def takes_edits(self) -> bool:
        """True if the graph takes edits of its attention: the checkpoint was exported with --attention-control."""
        if self._takes_edits is None:
            self._takes_edits = any(spec.name == CROSS_MAP for spec in self._session.inputs(self.component))
        return self._takes_edits

    @property
    def row_limit(self) -> int | None:
        """Rows that one call of the engine takes; None for any number."""
        return self._session.row_limit(self.component)

    @property
    def embeds_guidance(self) -> bool:
        """See `Denoiser`: True for distilled checkpoints, which have `time_cond_proj_dim`."""
        return self._guidance_width is not None

    @property
    def token_limit(self) -> int | None:
        """See `Denoiser`."""
        shapes = {spec.name: spec.shape for spec in self._session.declared_inputs(self.component)}
        tokens = shapes.get("encoder_hidden_states", (None, None))[1]
        return tokens if isinstance(tokens, int) else None

    @property
    def residual_inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs for the residuals of ControlNets; none when the checkpoint was exported without any."""
        return tuple(spec for spec in self._session.inputs(self.component) if is_residual(spec.name))

    def latent_shape(self, batch: int, height: int, width: int, vae: AutoencoderKL | None = None) -> tuple[int, ...]:
        """See `Denoiser`; without a VAE latents are pixels."""
        if vae is None:
            return batch, pixel_channels(self.in_channels, self.out_channels), height, width
        return batch, vae.latent_channels, height // vae.scale_factor, width // vae.scale_factor

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:  # noqa: ARG002
        """See `Denoiser`: a UNet has none."""
        return None

    def embed_guidance(self, scale: float) -> Feeds:
        """See `Denoiser`."""
        assert self._guidance_width is not None, "only where `embeds_guidance`"
        return {"timestep_cond": guidance_embedding(scale, self._guidance_width)}

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        if self.takes_edits:
            tokens = conditioning["encoder_hidden_states"].shape[1]
            conditioning = {**neutral_feeds(len(sample), tokens), **conditioning}
        return self.run(sample, timestep, conditioning)[0]

    def run(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> tuple[FloatArray, Outputs]:
        """Predict, as `__call__`, and return all outputs as well."""
        feeds = {"sample": sample, "timestep": time_feed(timestep), **conditioning}
        outputs = Outputs(self._session.run(self.component, feeds), self.component)
        return outputs.take("out_sample", (len(sample), self.out_channels, *sample.shape[2:])), outputs
