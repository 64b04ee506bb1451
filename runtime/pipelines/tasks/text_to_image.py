"""Text to image: from noise to an image."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.pipelines.tasks.base import Stage, Start, Task
from diffoundry.runtime.pipelines.tasks.schedule import start_at_index

__all__ = ["TextToImage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextToImage(Task):
    """diffusers: `StableDiffusionPipeline`, `StableDiffusionXLPipeline`."""

    name: ClassVar[str] = "text_to_image"
    label: ClassVar[str] = "text to image"

    def begin(self, stage: Stage) -> Start:
        """Noise in the scheduler's scale; diffusers: `prepare_latents`."""
        scheduler = stage.scheduler
        latents = stage.noise() * np.float32(scheduler.init_noise_sigma)
        if stage.first_index is None:
            return Start(latents=latents, timesteps=scheduler.timesteps)
        return Start(latents=latents, timesteps=start_at_index(scheduler, stage.first_index))
