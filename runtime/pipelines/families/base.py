"""What a family is to the pipeline that drives its components."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.condition import Condition, Frame
from diffoundry.runtime.pipelines.families.clip import ClipEncoder

__all__ = ["Family", "Prompts", "as_list", "check_clip_skip", "check_embeddings", "check_texts"]


FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prompts:
    """The texts of one call; a family with more to say derives from it.

    Attributes:
        prompt: One prompt or several; None where `prompt_embeds` stand in their place.
        negative_prompt: One for all prompts, or one for each; only used when guiding.
        prompt_embeds: float32 (B, tokens, D), what the denoiser is fed in place of encoded prompts.
        negative_prompt_embeds: The same of the negative prompts.
        clip_skip: Layers of the text encoders that are left out for the prompts, not for the negative ones; None for
            none.
        prompt_weighting: Whether brackets in prompts are weights: `(word:1.3)`, `(word)`, `[word]`; see
            `parse_weights`.
        long_prompts: Whether what does not fit into a text encoder's 77 tokens goes into further ones, and is not cut
            off.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    prompt_embeds: FloatArray | None = None
    negative_prompt_embeds: FloatArray | None = None
    clip_skip: int | None = None
    prompt_weighting: bool = False
    long_prompts: bool = False

    @property
    def count(self) -> int:
        """How many prompts there are."""
        if self.prompt_embeds is not None:
            return len(self.prompt_embeds)
        return 1 if isinstance(self.prompt, str) else len(self.prompt or ())

    def check(self) -> None:
        """Refuse what is no text, and lists that do not fit each other.

        Raises:
            InputError: The first argument that does not fit: subject, got, expected.
        """
        if (self.prompt is None) == (self.prompt_embeds is None):
            got = "neither" if self.prompt is None else "both"
            raise InputError(f"prompt and prompt_embeds: got {got}, expected one of them")
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise InputError("negative_prompt and negative_prompt_embeds: got both, expected one of them")
        prompts = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt or ())
        if self.prompt is not None and not (prompts and all(isinstance(prompt, str) for prompt in prompts)):
            raise InputError(f"prompt: got {self.prompt!r}, expected a string or a list of at least one")
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            check_embeddings(name, getattr(self, name), self.count, 3)
        check_texts("negative_prompt", self.negative_prompt, self.count)
        if self.clip_skip is not None and self.prompt_embeds is not None:
            raise InputError("clip_skip: got it with prompt_embeds, for which no encoder runs; leave it out")
        for name in ("prompt_weighting", "long_prompts"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: got {getattr(self, name)!r}, expected True or False")
        given, negative = self.prompt_embeds, self.negative_prompt_embeds
        if given is not None and negative is not None and given.shape != negative.shape:
            raise InputError(
                f"negative_prompt_embeds: got shape {negative.shape}, expected that of prompt_embeds, {given.shape}"
            )

    def texts(self, count: int) -> list[str]:
        """The prompts to encode; none where embeddings stand in their place."""
        return [] if self.prompt is None else as_list(self.prompt, count)

    def negative_texts(self, *, guided: bool) -> list[str]:
        """The negative prompts to encode; none where nothing guides, or embeddings stand in their place."""
        needed = guided and self.negative_prompt_embeds is None
        return as_list(self.negative_prompt or "", self.count) if needed else []


class Family(Protocol):
    """Drives the text encoders of a bundle. Safe to share between threads.

    Attributes:
        Arguments: What its prompts are asked with.
        defaults: Name of a task to the defaults of arguments that diffusers gives this family's pipelines in place of
            the usual ones.
        guided_defaults: The same of those pipelines that have ControlNets; a task that is missing has none.
        unstandardized: Tasks whose images diffusers decodes without mean and deviation of latents where ControlNets
            guide them.
        first_index: What text to image without ControlNets tells the scheduler of the place of its first step; None for
            nothing, so that the scheduler looks the first timestep up, which is another place where it stands twice.
        standardizes: Whether mean and deviation of latents count, where the VAE's config has them.
        needs: Arguments that this checkpoint cannot do without, whatever its UNet takes.
        encoders: Its text encoders, in the order in which they are used.
    """

    Arguments: ClassVar[type[Prompts]]
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]]
    guided_defaults: ClassVar[Mapping[str, Mapping[str, Any]]]
    unstandardized: ClassVar[tuple[str, ...]]
    first_index: ClassVar[int | None]
    standardizes: ClassVar[bool]

    @property
    def needs(self) -> tuple[str, ...]:
        """See above."""

    @property
    def encoders(self) -> tuple[ClipEncoder, ...]:
        """See above."""

    def mend(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options of a scheduler's config that diffusers changes for this family's pipelines."""

    def encode(self, prompts: Any, frame: Frame) -> Condition:
        """Run the text encoders.

        Args:
            prompts: Of the class `Arguments`, checked.
            frame: The image.

        Raises:
            InputError: Something of the prompts does not fit the image.
        """


def as_list(texts: str | Sequence[str], count: int) -> list[str]:
    """One text for all prompts, or one for each, as a list."""
    return [texts] * count if isinstance(texts, str) else list(texts)


def check_clip_skip(clip_skip: int | None, most: int) -> int:
    """How many layers are left out.

    Raises:
        InputError: No whole number, or more than `most`.
    """
    if clip_skip is not None and not (isinstance(clip_skip, int) and 0 <= clip_skip <= most):
        raise InputError(f"clip_skip: got {clip_skip!r}, expected a whole number from 0 to {most}")
    return clip_skip or 0


def check_embeddings(name: str, values: object, count: int, axes: int) -> None:
    """Refuse an optional argument that is no array of embeddings with a row for each prompt.

    Raises:
        InputError: Another type, number of axes or of rows.
    """
    if values is None:
        return
    shape = values.shape if isinstance(values, np.ndarray) and values.dtype.kind == "f" else None
    if shape is None or len(shape) != axes or shape[0] != count or not count:
        found = type(values).__name__ if shape is None else f"shape {shape}"
        tokens = "tokens, width" if axes == 3 else "width"
        raise InputError(f"{name}: got {found}, expected floats ({count or 'prompts'}, {tokens})")


def check_texts(name: str, texts: object, count: int) -> None:
    """Refuse an optional argument that is neither a text nor one for each prompt.

    Raises:
        InputError: It is something else, or of another length.
    """
    if texts is None or isinstance(texts, str):
        return
    entries = list(texts) if isinstance(texts, Sequence) else [texts]
    if len(entries) != count or not all(isinstance(text, str) for text in entries):
        raise InputError(f"{name}: got {len(entries)} entries, expected a string or {count} of them")
