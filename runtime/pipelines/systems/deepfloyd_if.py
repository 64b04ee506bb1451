"""DeepFloyd IF: a prompt to a small image, and the small image to a large one, both in pixel space."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.example_inputs import ORIGINAL
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.deepfloyd_cascade import Cascade
from diffoundry.runtime.pipelines.systems.deepfloyd_images import read_images
from diffoundry.runtime.pipelines.systems.deepfloyd_inputs import (
    IFImageInputs,
    IFInpaintInputs,
    IFSuperImageInputs,
    IFSuperInpaintInputs,
    IFSuperInputs,
    IFTextInputs,
)
from diffoundry.runtime.pipelines.tasks.schedule import add_noise
from diffoundry.runtime.schedulers.arithmetic.resampling import resample

__all__ = ["DeepFloydIF", "DeepFloydSuperResolution"]

_NOISING = "image_noising_scheduler"

_PIXELS = ("images", 3, "height", "width")
"""Shape of small images in a chain of both stages."""


class DeepFloydIF(Cascade):
    """The first stage. diffusers: `IFPipeline`, `IFImg2ImgPipeline`, `IFInpaintingPipeline`.

    Its networks are those of all three; the arguments decide. Saharia et al. 2022, https://arxiv.org/abs/2205.11487.
    """

    Inputs: ClassVar[type[Any]] = IFTextInputs
    label: ClassVar[str] = "images of a prompt"
    start_name: ClassVar[str] = "image"

    @classmethod
    def input_classes(cls) -> Sequence[type[Any]]:
        """See `StagedPipeline`."""
        return IFTextInputs, IFImageInputs, IFInpaintInputs

    def inputs_class(self, given: Sequence[str]) -> type[Any]:
        """See `StagedPipeline`: by the images."""
        if "mask_image" in given:
            return IFInpaintInputs
        return IFImageInputs if "image" in given else IFTextInputs

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`: those of the checkpoint's own class."""
        name = self.session.bundle.pipeline_class
        if "Inpainting" in name:
            return "image", "mask_image", "strength"
        return ("image", "strength") if "Img2Img" in name else ()

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`: pixels in -1..1, for the second stage."""
        return {"image": _PIXELS}

    def handed_over(self, result: Any) -> dict[str, Any]:
        """See `PipelineBase`."""
        return {"image": result.images}

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        timesteps = self._timesteps(call)

        def run(_: FloatArray | None) -> Iterator[Step]:
            feeds = self._texts(call.inputs)
            start, mask = self._start(call, timesteps[0])
            return self._denoise(call, timesteps, start, mask, None, feeds)

        return [Stage(name="denoising", total=len(timesteps), run=run)]


class DeepFloydSuperResolution(Cascade):
    """The second stage. diffusers: `IFSuperResolutionPipeline`, and those with Img2Img and Inpainting."""

    Inputs: ClassVar[type[Any]] = IFSuperInputs
    label: ClassVar[str] = "enlarged images"
    scheduler_folders: ClassVar[tuple[str, ...]] = (_NOISING, "scheduler")
    start_name: ClassVar[str] = ORIGINAL

    @classmethod
    def input_classes(cls) -> Sequence[type[Any]]:
        """See `StagedPipeline`."""
        return IFSuperInputs, IFSuperImageInputs, IFSuperInpaintInputs

    def inputs_class(self, given: Sequence[str]) -> type[Any]:
        """See `StagedPipeline`: by the images."""
        if "mask_image" in given:
            return IFSuperInpaintInputs
        return IFSuperImageInputs if "original_image" in given else IFSuperInputs

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`: those of the checkpoint's own class."""
        name = self.session.bundle.pipeline_class
        if "Inpainting" in name:
            return "image", ORIGINAL, "mask_image", "strength"
        return ("image", ORIGINAL, "strength") if "Img2Img" in name else ("image",)

    def taken_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        return {"image": _PIXELS}

    def start_arguments(self) -> dict[str, str | None]:
        """See `PipelineBase`: the first stage takes the image as `image`, and this one enlarges what it makes of it."""
        return {"image": ORIGINAL, "mask_image": "mask_image", "strength": "strength"}

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`: pixels in 0..1, for an x4 upscaler as the third stage."""
        return {"image": ("images", "height", "width", 3)}

    def handed_over(self, result: Any) -> dict[str, Any]:
        """See `PipelineBase`."""
        return {"image": self.decode(result.images, "np")}

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        noising = call.schedulers[_NOISING]
        levels = noising.config.get("num_train_timesteps", 1000)
        level = call.inputs.noise_level
        if level >= levels:
            raise InputError(f"noise_level: got {level}, expected a whole number from 0 to {levels - 1}")
        timesteps = self._timesteps(call)

        def run(_: FloatArray | None) -> Iterator[Step]:
            feeds = self._texts(call.inputs)
            start, mask = self._start(call, timesteps[0])
            small = self._rows(read_images(call.inputs.image, "image"), call, "image")
            enlarged = resample(small, call.size, "bilinear", align_corners=True)
            noisy = add_noise(noising, enlarged, call.randn(enlarged.shape), level)
            rows = len(feeds["encoder_hidden_states"])
            labels = {"class_labels": np.full(rows, level, np.float32)}
            return self._denoise(call, timesteps, start, mask, noisy, {**feeds, **labels})

        return [Stage(name="denoising", total=len(timesteps), run=run)]
