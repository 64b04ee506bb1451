"""Latent diffusion without a prompt: noise to latents, decoded with the nearest codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.unet_2d import UNet2DModel
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage

__all__ = ["LatentDiffusion", "LatentDiffusionInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LatentDiffusionInputs:
    """The arguments of diffusers' `LDMPipeline`.

    Attributes:
        batch_size: Number of images.
        num_inference_steps: Steps of the scheduler.
        eta: DDIM's eta, 0 to 1.
        latents: Start noise, float32 (B, C, h, w), instead of drawing it. diffusers always draws it.
    """

    batch_size: int = 1
    num_inference_steps: int = 50
    eta: float = 0.0
    latents: FloatArray | None = None

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            InputError: As said.
        """
        check_number("eta", self.eta, 0, 1.0)


class LatentDiffusion(StagedPipeline):
    """diffusers: `LDMPipeline`. Rombach et al. 2021, https://arxiv.org/abs/2112.10752.

    Attributes:
        vae: The VQModel or AutoencoderKL.
        unet: The denoiser.
    """

    Inputs: ClassVar[type[Any]] = LatentDiffusionInputs
    label: ClassVar[str] = "unconditional images"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = UNet2DModel(session)
        self.vae = open_vae(session)

    @property
    def scale_factor(self) -> int:
        """Pixels to a side of a latent."""
        return self.vae.scale_factor

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, call.scheduler
        shape = self.unet.latent_shape(call.images, *call.size, self.vae)
        scheduler.check_loop(channels=shape[1], output_channels=self.unet.out_channels, eta=inputs.eta)
        scheduler.check_latents(scaled=True)
        sigma = scheduler.init_noise_sigma  # diffusers scales before it sets the timesteps, which may change the factor
        scheduler.set_timesteps(inputs.num_inference_steps)

        def run(_: FloatArray | None) -> Any:
            noise = call.start_noise(shape, inputs.latents) * sigma
            return call.denoise(self._predict, noise, eta=inputs.eta)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def _predict(self, sample: FloatArray, timestep: float, _index: int) -> FloatArray:
        return self.unet(sample, timestep, {})

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`."""
        if output_type == "latent":
            return latents
        return postprocess(self.vae.decode(latents / self.vae.scaling_factor), output_type)
