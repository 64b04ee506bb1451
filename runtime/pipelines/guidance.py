"""Guidance: the rows that the denoiser is fed for each image, and the prediction made of its outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from diffoundry.runtime.checks.arguments import check_counterpart
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.guidance_rescale import rescale_noise

__all__ = ["ClassifierFreeGuidance", "Condition", "Guidance", "Unguided", "choose_guidance", "stack"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Condition:
    """The denoiser's inputs besides latents and timestep.

    Attributes:
        conditional: Those of the prompts.
        unconditional: Those of the negative prompts, of the same names and shapes; None without guidance.
        truncated: For each prompt the part that did not fit into a text encoder, "" where all of it did.
    """

    conditional: Feeds
    unconditional: Feeds | None
    truncated: tuple[str, ...]


class Guidance(Protocol):
    """Rows in, one prediction out.

    Attributes:
        copies: Rows for each image: the latents are fed so many times, the copies below each other.
        guided: True if the unconditional half of the condition is used.
    """

    copies: ClassVar[int]
    guided: ClassVar[bool]

    def feeds(self, condition: Condition) -> Feeds:
        """Return the denoiser's inputs besides latents and timestep, (copies * B, ...)."""

    def combine(self, output: FloatArray) -> FloatArray:
        """Make one prediction (B, ...) of the denoiser's output (copies * B, ...)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unguided:
    """The prompt alone.

    Attributes:
        embedding: Inputs of a distilled denoiser for the guidance scale, of one row; see `Denoiser.embed_guidance`.
    """

    copies: ClassVar[int] = 1
    guided: ClassVar[bool] = False

    embedding: Feeds = field(default_factory=dict)

    def feeds(self, condition: Condition) -> Feeds:
        """See `Guidance.feeds`."""
        return stack([condition.conditional], self.embedding)

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        return output


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierFreeGuidance:
    """Away from the negative prompt, whose rows come first: e = e_u + s (e_c - e_u).

    Ho and Salimans 2022, equation 6 (with s = 1 + w), https://arxiv.org/abs/2207.12598.

    Attributes:
        scale: s, above 1.
        rescale: Restores the spread of e_c, 0 to 1; 0 is off. See `rescale_noise`.
        embedding: As `Unguided.embedding`, for a distilled denoiser that is guided as well.
    """

    copies: ClassVar[int] = 2
    guided: ClassVar[bool] = True

    scale: float
    rescale: float = 0.0
    embedding: Feeds = field(default_factory=dict)

    def feeds(self, condition: Condition) -> Feeds:
        """See `Guidance.feeds`."""
        assert condition.unconditional is not None
        return stack([condition.unconditional, condition.conditional], self.embedding)

    def combine(self, output: FloatArray) -> FloatArray:
        """See `Guidance.combine`."""
        unconditional, conditional = np.split(output, 2)
        guided: FloatArray = unconditional + self.scale * (conditional - unconditional)
        return rescale_noise(guided, conditional, self.rescale) if self.rescale > 0 else guided


def choose_guidance(scale: float, rescale: float, denoiser: Denoiser) -> Guidance:
    """Return the guidance that a scale means for a denoiser: embedded, classifier-free, or none.

    diffusers: `StableDiffusionPipeline.do_classifier_free_guidance`.
    """
    if denoiser.embeds_guidance:
        return Unguided(embedding=denoiser.embed_guidance(scale))
    return ClassifierFreeGuidance(scale=scale, rescale=rescale) if scale > 1 else Unguided()


def stack(parts: Sequence[Feeds], embedding: Feeds | None = None) -> Feeds:
    """Concatenate the rows of several feeds of the same names, and repeat those of `embedding`, of one row, for each.

    Raises:
        InputError: Embeddings that the caller passed have another shape than their counterpart.
    """
    for name, first in parts[0].items():
        for part in parts[1:]:
            check_counterpart(name, first, part[name])
    feeds = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = len(feeds[next(iter(feeds))])
    return feeds | {name: np.repeat(row, rows, axis=0) for name, row in (embedding or {}).items()}
