"""RePaint: inpainting with an unconditional model, in pixel space."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import announced
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.mask import MaskInput
from diffoundry.runtime.images.pixels import ImageInput, preprocess
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.images.repaint import preprocess_known
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.unet_2d import UNet2DModel
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.schedulers import Scheduler
from diffoundry.runtime.schedulers.algorithms.repaint import RePaintScheduler

__all__ = ["RePaint", "RePaintInputs"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RePaintInputs:
    """The arguments of diffusers' `RePaintPipeline`.

    Attributes:
        image: Images whose known part is kept. Their size, rounded down to multiples of 8, is that of the result.
            Arrays and tensors in 0..1.
        mask_image: White where the image is kept, black where it is generated: the opposite of Stable Diffusion's.
        batch_size: Number of images; None for that of `image`. One image, or mask, counts for all.
        num_inference_steps: Steps without the jumps.
        eta: 0 is DDIM, 1 is DDPM.
        jump_length: Steps that a jump goes back in time (the paper's j).
        jump_n_sample: Times that each stretch is gone through (the paper's r).
    """

    image: "ImageInput | None" = None
    mask_image: "MaskInput | None" = None
    batch_size: int | None = None
    num_inference_steps: int = 250
    eta: float = 0.0
    jump_length: int = 10
    jump_n_sample: int = 10

    def check(self) -> None:
        """Refuse a missing image or mask, and numbers out of range.

        Raises:
            InputError: As said.
        """
        if self.image is None:
            raise InputError("image: got none, expected the image with the known part")
        if self.mask_image is None:
            raise InputError("mask_image: got none, expected a mask, white where the image is known")
        check_number("eta", self.eta, 0, 1.0)
        for name in ("jump_length", "jump_n_sample"):
            check_number(name, getattr(self, name), 1, whole=True)


class RePaint(StagedPipeline):
    """diffusers: `RePaintPipeline`. Going back in time is part of the step that follows.

    As there, several generators draw the start noise of each image, and the first one all noise after that.

    Lugmayr et al. 2022, Algorithm 1, https://arxiv.org/abs/2201.09865.
    """

    Inputs: ClassVar[type[Any]] = RePaintInputs
    label: ClassVar[str] = "inpainted images"
    own_loop: ClassVar[bool] = True
    only_scheduler: ClassVar[str | None] = "RePaintScheduler"

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self.unet = self.denoiser = UNet2DModel(session)
        self.unet.refuse_classes()

    def open_scheduler(self, folder: str, config: Mapping[str, Any]) -> Scheduler[Any]:  # noqa: ARG002
        """See `StagedPipeline`: a DDPM checkpoint's config is that of its RePaint scheduler."""
        return RePaintScheduler.from_config(config)

    def images(self, inputs: Any) -> int:
        """See `StagedPipeline`."""
        return int(inputs.batch_size or len(preprocess(inputs.image)))

    def size(self, inputs: Any) -> tuple[int, int]:
        """See `StagedPipeline`."""
        height, width = preprocess(inputs.image).shape[2:]
        return height, width

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs = call.inputs
        plain = self.require_scheduler(call.scheduler, RePaintScheduler)
        scheduler = RePaintScheduler.from_config({**plain.config, "eta": float(inputs.eta)})
        scheduler.set_timesteps(
            inputs.num_inference_steps, jump_length=inputs.jump_length, jump_n_sample=inputs.jump_n_sample
        )
        image = _rows("image", preprocess(inputs.image), call.images)
        mask = _rows("mask_image", preprocess_known(inputs.mask_image, *call.size), call.images)
        # Going up in time calls no network.
        total = 1 + int((np.diff(scheduler.timesteps) < 0).sum())
        return [Stage(name="denoising", total=total, run=lambda _: self._run(call, scheduler, image, mask, total))]

    def _run(
        self, call: StagedCall, scheduler: RePaintScheduler, image: FloatArray, mask: FloatArray, total: int
    ) -> Iterator[Step]:
        """Denoise, and go back in time where the timesteps go up."""
        sample = call.randn(image.shape)
        generator = call.generator[0] if isinstance(call.generator, Sequence) else call.generator
        last, index = int(scheduler.timesteps[0]) + 1, 0
        for timestep in map(int, announced(scheduler.timesteps)):
            if timestep < last:
                if call.stops():
                    return
                output = self.unet(sample, timestep, {})
                result = scheduler.step(output, timestep, sample, image, mask, generator=generator)
                sample = call.finish_step(index, timestep, cast("FloatArray", result.prev_sample))
                yield Step(index=index, total=total, timestep=timestep, latents=sample)
                index += 1
            else:
                sample = scheduler.undo_step(sample, last, generator=generator).astype(np.float32)
            last = timestep

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`: short jumps, each gone through twice."""
        jumps = {"jump_length": min(5, max(1, steps // 2)), "jump_n_sample": 2}
        return {**super().setting_arguments(steps, guidance_scale), **jumps}

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        return "image", "mask_image"

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: pixels from -1..1."""
        return postprocess(latents, output_type)


def _rows(name: str, array: FloatArray, images: int) -> FloatArray:
    """Return one row for each image, or one row for all of them repeated.

    Raises:
        InputError: There are others.
    """
    if len(array) not in (1, images):
        raise InputError(f"{name}: got {len(array)} of them, expected one, or {images}: one for each image")
    return np.ascontiguousarray(np.broadcast_to(array, (images, *array.shape[1:])))
