"""DDPM, DDIM and PNDM: noise to an image in pixel space, without a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.unet_2d import UNet2DModel
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.schedulers import Scheduler, scheduler_from_config
from diffoundry.runtime.schedulers.algorithms.ddim import DDIMScheduler
from diffoundry.runtime.schedulers.registry import scheduler_class

__all__ = ["Unconditional", "UnconditionalInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnconditionalInputs:
    """The arguments of diffusers' `DDPMPipeline`, `DDIMPipeline` and `PNDMPipeline`.

    Attributes:
        batch_size: Number of images.
        num_inference_steps: Steps of the scheduler; None for the default of the pipeline class: 1000 of DDPM, 50 of
            DDIM and PNDM.
        latents: Start noise, float32 (B, C, height, width), instead of drawing it.
        eta: DDIM's eta, 0 to 1.
        use_clipped_model_output: DDIM: True computes the noise again from the clipped image; None leaves it to the
            scheduler.
    """

    batch_size: int = 1
    num_inference_steps: int | None = None
    latents: FloatArray | None = None
    eta: float = 0.0
    use_clipped_model_output: bool | None = None

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            InputError: As said.
        """
        check_number("eta", self.eta, 0, 1.0)


_STEPS = {"DDPMPipeline": 1000}
"""Pipeline class to its default number of steps."""

_DEFAULT_STEPS = 50

_SCHEDULERS = {"DDIMPipeline": "DDIMScheduler", "PNDMPipeline": "PNDMScheduler"}
"""Pipeline class to the scheduler that it makes of the checkpoint's, whatever that is."""


class Unconditional(StagedPipeline):
    """diffusers: `DDPMPipeline`, `DDIMPipeline`, `PNDMPipeline`.

    Ho et al. 2020, https://arxiv.org/abs/2006.11239.
    """

    Inputs: ClassVar[type[Any]] = UnconditionalInputs
    label: ClassVar[str] = "unconditional images"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = UNet2DModel(session)
        self.unet.refuse_classes()

    def open_scheduler(self, folder: str, config: Mapping[str, Any]) -> Scheduler[Any]:  # noqa: ARG002
        """See `StagedPipeline`: two of the classes make a scheduler of their own of any config."""
        name = _SCHEDULERS.get(self.session.bundle.pipeline_class)
        return scheduler_from_config(config) if name is None else scheduler_class(name).from_config(config)

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, call.scheduler
        shape = self.unet.latent_shape(call.images, *call.size)
        scheduler.check_loop(channels=shape[1], output_channels=self.unet.out_channels, eta=inputs.eta)
        default = _STEPS.get(self.session.bundle.pipeline_class, _DEFAULT_STEPS)
        scheduler.set_timesteps(inputs.num_inference_steps or default)
        clipped = inputs.use_clipped_model_output
        options: dict[str, Any] = {} if clipped is None else {"use_clipped_model_output": bool(clipped)}
        if options and not isinstance(scheduler, DDIMScheduler):
            raise InputError(
                f"use_clipped_model_output: {type(scheduler).__name__} has no such option; leave it out, or choose "
                f"DDIMScheduler"
            )

        def run(_: FloatArray | None) -> Any:
            noise = call.start_noise(shape, inputs.latents)
            return call.denoise(self._predict, noise, eta=inputs.eta, scale_input=False, **options)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def _predict(self, sample: FloatArray, timestep: float, _index: int) -> FloatArray:
        return self.unet(sample, timestep, {})

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: pixels from -1..1."""
        return postprocess(latents, output_type)
