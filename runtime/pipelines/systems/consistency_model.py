"""Consistency models: noise to an image in one step or a few, with or without classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffoundry.runtime.checks.arguments import check_numbers
from diffoundry.runtime.checks.class_labels import ClassLabels, count_labels, read_labels, spread_labels
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.unet_2d import UNet2DModel
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage

__all__ = ["ConsistencyModel", "ConsistencyModelInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConsistencyModelInputs:
    """The arguments of diffusers' `ConsistencyModelPipeline`.

    Attributes:
        batch_size: Number of images; None for one, or one for each class label.
        class_labels: Number of a class for all images, or one for each. A model with classes needs them: diffusers
            draws missing ones from torch's global generator, which no seed of the call repeats.
        num_inference_steps: Steps of the scheduler; `timesteps` win.
        timesteps: Places in the trained noise levels, descending, such as [22, 0].
        latents: Start noise, float32 (B, C, height, width), before it is scaled, instead of drawing it.
    """

    batch_size: int | None = None
    class_labels: ClassLabels | None = None
    num_inference_steps: int = 1
    timesteps: Sequence[float] | None = None
    latents: FloatArray | None = None

    def check(self) -> None:
        """Refuse timesteps that are no numbers.

        Raises:
            InputError: As said.
        """
        check_numbers("timesteps", self.timesteps)


class ConsistencyModel(StagedPipeline):
    """diffusers: `ConsistencyModelPipeline`.

    Song et al. 2023, Algorithm 1, https://arxiv.org/abs/2303.01469.
    """

    Inputs: ClassVar[type[Any]] = ConsistencyModelInputs
    label: ClassVar[str] = "images without a text"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = UNet2DModel(session)
        self.unet.require_numbered_classes()

    def images(self, inputs: Any) -> int:
        """See `StagedPipeline`."""
        return int(inputs.batch_size or count_labels(inputs.class_labels))

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, call.scheduler
        shape = self.unet.latent_shape(call.images, *call.size)
        scheduler.check_loop(channels=shape[1], output_channels=self.unet.out_channels)
        own = inputs.timesteps is not None
        scheduler.set_timesteps(None if own else inputs.num_inference_steps, timesteps=inputs.timesteps)
        conditioning = self._conditioning(inputs, call.images)

        def predict(sample: FloatArray, timestep: float, _index: int) -> FloatArray:
            return self.unet(sample, timestep, conditioning)

        def run(_: FloatArray | None) -> Any:
            return call.denoise(predict, call.start_noise(shape, inputs.latents) * scheduler.init_noise_sigma)

        return [Stage(name="denoising", total=len(scheduler.model_timesteps), run=run)]

    def _conditioning(self, inputs: ConsistencyModelInputs, images: int) -> dict[str, Any]:
        """Return the input for class labels; none of a model without classes.

        Raises:
            InputError: Labels without classes, or none with classes.
        """
        count = self.unet.class_count
        if count is not None:
            return {"class_labels": read_labels(inputs.class_labels, images, count, {})}
        if inputs.class_labels is not None:
            raise InputError(f"class_labels: got {inputs.class_labels!r}, expected none: this model has no classes")
        return {}

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`: of a model with classes the first one."""
        arguments = super().setting_arguments(steps, guidance_scale)
        return arguments if self.unet.class_count is None else {**arguments, "class_labels": 0}

    def varied_arguments(self, seeds: Sequence[int]) -> dict[str, Any]:
        """See `PipelineBase`."""
        count = self.unet.class_count
        return {} if count is None else {"class_labels": spread_labels(seeds, count)}

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: pixels from -1..1."""
        return postprocess(latents, output_type)
