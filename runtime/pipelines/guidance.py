"""Which rows the denoiser is fed for an image, and how what comes out is made one prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.pipelines.condition import Condition, Feeds, stack
from diffoundry.runtime.pipelines.guidance_arithmetic import guidance_embedding, guide, rescale_guidance

__all__ = [
    "ClassifierFreeGuidance",
    "EmbeddedGuidance",
    "Guidance",
    "InstructionGuidance",
    "Unguided",
    "choose_guidance",
]

FloatArray = npt.NDArray[np.float32]


class Guidance(Protocol):
    """Rows in, one prediction out.

    Attributes:
        copies: Rows for each image: the latents are fed so many times, the copies below each other.
        guided: Whether the unconditional half of the condition is used.
    """

    copies: ClassVar[int]
    guided: ClassVar[bool]

    def feeds(self, condition: Condition) -> Feeds:
        """The denoiser's inputs beside latents and timestep, (copies * B, ...)."""

    def combine(self, output: FloatArray) -> FloatArray:
        """The denoiser's output (copies * B, C, h, w) as one prediction (B, C, h, w)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unguided:
    """The prompt alone."""

    copies: ClassVar[int] = 1
    guided: ClassVar[bool] = False

    def feeds(self, condition: Condition) -> Feeds:
        """See `Guidance.feeds`."""
        return condition.conditional

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        return output


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierFreeGuidance:
    """Away from the negative prompt; see `runtime.pipelines.guidance_arithmetic.guide`. The negative rows come first.

    Attributes:
        scale: Above 1.
        rescale: See `runtime.pipelines.guidance_arithmetic.rescale_guidance`; 0 is off.
    """

    copies: ClassVar[int] = 2
    guided: ClassVar[bool] = True

    scale: float
    rescale: float = 0.0

    def feeds(self, condition: Condition) -> Feeds:
        """See `Guidance.feeds`."""
        assert condition.unconditional is not None
        return stack([condition.unconditional, condition.conditional])

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        unconditional, conditional = np.split(output, 2)
        guided = guide(unconditional, conditional, self.scale)
        return rescale_guidance(guided, conditional, self.rescale) if self.rescale > 0 else guided


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedGuidance:
    """The scale as an input of a distilled denoiser, `timestep_cond`; see `guidance_embedding`.

    Attributes:
        scale: As a guided pipeline takes it.
        width: Of the embedding: the UNet's `time_cond_proj_dim`.
    """

    copies: ClassVar[int] = 1
    guided: ClassVar[bool] = False

    scale: float
    width: int

    def feeds(self, condition: Condition) -> Feeds:
        """See `Guidance.feeds`."""
        rows = len(next(iter(condition.conditional.values())))
        embedding = guidance_embedding(self.scale - 1, self.width)
        return {**condition.conditional, "timestep_cond": np.repeat(embedding, rows, axis=0)}

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        return output


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionGuidance:
    """Away from what the image alone gives, and that away from nothing: e = e_0 + s (e_TI - e_I) + s_I (e_I - e_0).

    Brooks et al. 2023, equation 3, https://arxiv.org/abs/2211.09800. The rows are those for text and image, for the
    image alone, and for neither.

    Attributes:
        scale: s, above 1.
        image_scale: s_I, at least 1.
    """

    copies: ClassVar[int] = 3
    guided: ClassVar[bool] = True

    scale: float
    image_scale: float

    def feeds(self, condition: Condition) -> Feeds:
        """See `Guidance.feeds`."""
        assert condition.unconditional is not None
        return stack([condition.conditional, condition.unconditional, condition.unconditional])

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        told, shown, neither = np.split(output, 3)
        guided: FloatArray = neither + self.scale * (told - shown) + self.image_scale * (shown - neither)
        return guided


def choose_guidance(scale: float, rescale: float, unet: Mapping[str, Any]) -> Guidance:
    """What a guidance scale means for a UNet: an input of its own, two rows an image, or nothing.

    diffusers: `StableDiffusionPipeline.do_classifier_free_guidance`.

    Args:
        scale: 1 or less runs without guidance.
        rescale: 0 to 1.
        unet: The UNet's config.
    """
    width = unet.get("time_cond_proj_dim")
    if width is not None:
        return EmbeddedGuidance(scale=scale, width=width)
    return ClassifierFreeGuidance(scale=scale, rescale=rescale) if scale > 1 else Unguided()
