"""UNet2DModel: the denoiser of DDPM and other pipelines without text, over pixels or latents."""

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.formats.config_values import integer, integers, refuse
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.denoiser import DenoiserNetwork
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.sample_size import pixel_channels, read_sample_size

__all__ = ["UNet2DModel"]

_CHANNELS = (224, 448, 672, 896)
"""Default of diffusers for `block_out_channels`."""


class UNet2DModel(DenoiserNetwork):
    """A `Denoiser` over pixels or latents (B, C, h, w). diffusers: `UNet2DModel`.

    Its conditioning: "class_labels", where the network has an embedding of classes. They are numbers of classes (B,),
    or vectors (B, D).

    Attributes:
        size_multiple: Height and width of its input must be multiples of this.
        takes_labels: True if "class_labels" is an input.
        class_count: Number of classes, where labels are their numbers; else None.
    """

    def __init__(self, session: EngineSession, component: str | None = None) -> None:
        """Read the config; the engine is opened when first needed.

        Args:
            session: The engines.
            component: Name of the component; None for the denoiser.

        Raises:
            BundleError: The bundle has no such component, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session, component)
        config, subject = self._config, self._subject
        self.in_channels = integer(config, "in_channels", 3, subject=subject)
        self.out_channels = integer(config, "out_channels", 3, subject=subject)
        self.sample_size = read_sample_size(config, None, subject)
        channels = integers(config, "block_out_channels", _CHANNELS, subject=subject)
        self.first_channels = channels[0]
        self.size_multiple = 2 ** (len(channels) - 1)
        kind = config.get("class_embed_type")
        count = integer(config, "num_class_embeds", None, subject=subject)
        self.class_count = count if kind is None else None
        self.takes_labels = kind is not None or count is not None
        self._kind = kind

    def refuse_classes(self) -> None:
        """Refuse a network with classes, for a pipeline whose call has no class labels.

        Raises:
            ConfigError: It has some.
        """
        if self.takes_labels:
            raise ConfigError(
                f"{self._subject}: got a network that takes class labels, expected one without: a "
                f"{self._session.bundle.pipeline_class} passes none; correct the config, or name "
                f"ConsistencyModelPipeline in model_index.json if the network is one"
            )

    def require_numbered_classes(self) -> None:
        """Refuse a network whose class labels are no numbers of classes.

        Raises:
            ConfigError: They are vectors, or embedded like timesteps.
        """
        if self._kind is not None:
            raise refuse(self._subject, "class_embed_type", self._kind, "null: labels are numbers of classes")

    def latent_shape(self, batch: int, height: int, width: int, vae: AutoencoderKL | None = None) -> tuple[int, ...]:
        """See `Denoiser`; without a VAE latents are pixels."""
        if vae is None:
            return batch, pixel_channels(self.in_channels, self.out_channels), height, width
        return super().latent_shape(batch, height, width, vae)

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        feeds = {"sample": sample, "timestep": time_feed(timestep), **conditioning}
        outputs = Outputs(self._session.run(self.component, feeds), self.component)
        return outputs.take("out_sample", (len(sample), self.out_channels, *sample.shape[2:]))
