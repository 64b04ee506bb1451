"""One image under way: iterate over its steps, look at previews, stop, or finish."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.pipelines.denoising import Step

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PipelineOutput", "Run"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineOutput:
    """What a call of a pipeline gives.

    Attributes:
        images: One PIL image an image; for output_type "np" a float32 array (B, H, W, 3) in 0..1, for "latent" the
            latents (B, C, h, w).
        seed: The seed used, or None when generators or latents were handed in.
        truncated: For each prompt the part that did not fit into the text encoder, "" where all of it did.
        nsfw_content_detected: For each image whether the safety checker flagged it, so that it is black now; None
            when none looked at them.
    """

    images: "list[Image] | FloatArray"
    seed: int | tuple[int, ...] | None
    truncated: tuple[str, ...]
    nsfw_content_detected: list[bool] | None = None


class Run:
    """One request under way: an iterator over its steps. Belongs to one thread.

    Attributes:
        total: How many steps there are in all.
        latents: As they are now, float32 (B, C, height/8, width/8).
        seed: As `PipelineOutput.seed`.
        truncated: As `PipelineOutput.truncated`.
    """

    def __init__(
        self,
        *,
        steps: Iterator[Step],
        total: int,
        latents: FloatArray,
        decode: "Callable[[FloatArray, str], tuple[Any, list[bool] | None]]",
        complete: "Callable[[list[Image]], list[Image]] | None" = None,
        output_type: str,
        seed: int | tuple[int, ...] | None,
        truncated: tuple[str, ...],
    ) -> None:
        self.total = total
        self.latents = latents
        self.seed = seed
        self.truncated = truncated
        self._steps = steps
        self._decode = decode
        self._complete = complete
        self._output_type = output_type

    def __iter__(self) -> Iterator[Step]:
        """The steps that are left. Stop iterating to cancel."""
        for step in self._steps:
            self.latents = step.latents
            yield step

    def preview(self) -> "list[Image]":
        """The images as they are now, through the VAE, and past the safety checker where there is one."""
        images: list[Image] = self._decode(self.latents, "pil")[0]
        return images

    def finish(self) -> PipelineOutput:
        """Run the steps that are left and decode."""
        for _ in self:
            pass
        images, flags = self._decode(self.latents, self._output_type)
        if self._complete is not None:
            images = self._complete(images)
        return PipelineOutput(images=images, seed=self.seed, truncated=self.truncated, nsfw_content_detected=flags)
