"""Attention control of a pipeline: its arguments, and the denoiser's further inputs and maps in every step."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.checks.arguments import is_whole
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import shorten
from diffoundry.runtime.models.attention_control import (
    BASE_ROWS,
    CROSS_KEEP,
    CROSS_MAP,
    SELF_LIMIT,
    neutral_feeds,
    run_edited,
)
from diffoundry.runtime.models.protocols import Feeds, FloatArray, TextEncoder
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.attention.edit_options import ARGUMENT, EditOptions, read_edit_options
from diffoundry.runtime.pipelines.attention.local_blend import LocalBlend
from diffoundry.runtime.pipelines.attention.prompt_to_prompt import PromptEdit
from diffoundry.runtime.pipelines.attention.words import PromptWords, read_words
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.tokenizers.clip import ClipTokenizer

__all__ = ["AttentionInputs", "AttentionRun", "begin_attention", "check_attention", "seeds_of"]

_HEAT = "heat_map_words"

_EXPORT = "export a Stable Diffusion 1.x or 2.x checkpoint with --attention-control, or leave it out"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttentionInputs:
    """The arguments that reach into the denoiser's attention.

    Attributes:
        cross_attention_kwargs: Prompt-to-Prompt under the names of diffusers' community pipeline
            `pipeline_prompt2prompt`: the first prompt is generated as it is, the others are edits of its image.
            "edit_type": "replace", "refine" or "reweight"; "n_cross_replace" and "n_self_replace": the fraction of the
            steps, or its start and end, in which attention is that of the first prompt, for cross attention also a
            dictionary with some for words; "local_blend_words": for each prompt the words whose region may change, with
            "local_blend_threshold"; "equalizer_words" and "equalizer_strengths": factors of words' attention.
        heat_map_words: A word of the prompts or several; the result has a map of each one's attention.
    """

    cross_attention_kwargs: Mapping[str, Any] | None = None
    heat_map_words: str | Sequence[str] | None = None

    @property
    def given(self) -> str | None:
        """The first argument that was given; None for none."""
        return next((name for name in (ARGUMENT, _HEAT) if getattr(self, name) is not None), None)

    @property
    def words(self) -> list[str]:
        """The words of heat maps."""
        words = self.heat_map_words
        return [] if words is None else [words] if isinstance(words, str) else list(words)


def check_attention(
    inputs: AttentionInputs, prompts: Any, denoiser: Any, encoders: Sequence[TextEncoder], images: int, task: str
) -> None:
    """Refuse arguments that do not fit, before any work.

    Args:
        inputs: Of the call.
        prompts: The prompts of the call.
        denoiser: The denoiser.
        encoders: The text encoders.
        images: Images for every prompt.
        task: Name of the task.

    Raises:
        InputError: Subject, got, expected.
    """
    name = inputs.given
    if name is None:
        return
    options = None if inputs.cross_attention_kwargs is None else read_edit_options(*_edit_arguments(inputs, prompts))
    if not isinstance(denoiser, UNet2DConditionModel) or not denoiser.takes_edits:
        raise InputError(f"{name}: got one, but the denoiser of this bundle takes no edits of its attention; {_EXPORT}")
    if task == "instruction":
        raise InputError(f"{name}: InstructPix2Pix has no prompts to compare; leave it out")
    for other in ("prompt_embeds", "prompt_weighting", "long_prompts"):
        if getattr(prompts, other, None) not in (None, False):
            raise InputError(f"{other}: got one with {name}, which needs the words of plain prompts; leave one out")
    if not all(isinstance(word, str) and word.strip() for word in inputs.words) or inputs.heat_map_words in ([], ()):
        raise InputError(f"{_HEAT}: got {shorten(inputs.heat_map_words)}, expected a word of the prompts, or several")
    if options is not None:
        _check_rows(denoiser, prompts.count, images)
    # Finds words that occur in no prompt, and prompts that cannot be aligned.
    begin_attention(inputs, prompts, denoiser, encoders[0].tokenizer, images, 1, 1)


def _edit_arguments(inputs: AttentionInputs, prompts: Any) -> tuple[object, int]:
    return inputs.cross_attention_kwargs, prompts.count


def _check_rows(denoiser: UNet2DConditionModel, prompts: int, images: int) -> None:
    limit, rows = denoiser.row_limit, prompts * images
    if limit is not None and limit < rows:
        raise InputError(
            f"prompt: got {prompts} with {ARGUMENT} and {images} images for each, expected at most {limit} images, the "
            f"rows that the engine of {denoiser.component!r} takes at once; export with --batch {rows}, or edit fewer"
        )


def seeds_of(inputs: AttentionInputs, common: CommonInputs, prompts: int) -> Any:
    """Return seeds with which all prompts of an edit start from the same noise; those of the call otherwise.

    Args:
        inputs: Of the call.
        common: Of the call. Image k of every prompt gets its seed, or one that is drawn, plus k.
        prompts: Number of prompts.
    """
    seed: Any = common.seed
    if inputs.cross_attention_kwargs is None or common.generator is not None or common.latents is not None:
        return seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    return [seed + k for k in range(common.num_images_per_prompt)] * prompts if is_whole(seed) else seed


def begin_attention(
    inputs: AttentionInputs,
    prompts: Any,
    denoiser: Any,
    tokenizer: ClipTokenizer,
    images_per_prompt: int,
    steps: int,
    total: int,
) -> "AttentionRun":
    """Return the denoiser of a run whose attention is edited or watched.

    Args:
        inputs: Of the call, checked.
        prompts: The prompts of the call.
        denoiser: The denoiser.
        tokenizer: Of the text encoder.
        images_per_prompt: Images for every prompt.
        steps: Steps as the caller counts them.
        total: Calls of the denoiser.

    Raises:
        InputError: A word occurs in no prompt, or the prompts cannot be aligned.
    """
    assert inputs.given is not None, "without arguments there is nothing to do"
    words = [read_words(tokenizer, text, inputs.given) for text in prompts.texts()]
    heat = {word: _heat_places(words, word) for word in inputs.words}
    edit = blend = None
    if inputs.cross_attention_kwargs is not None:
        options = read_edit_options(*_edit_arguments(inputs, prompts))
        # Windows are fractions of the calls: image to image leaves out steps, schedulers of second order call twice.
        # PNDM makes one call more than it has steps, which the community pipeline does not count.
        edit = PromptEdit(options, words, steps if total in (steps, steps + 1) else total)
        blend = _local_blend(options, words)
    return AttentionRun(denoiser, len(words), images_per_prompt, edit=edit, blend=blend, heat=heat)


def _local_blend(options: EditOptions, words: list[PromptWords]) -> LocalBlend | None:
    if not options.local_blend_words:
        return None
    name = "local_blend_words"
    places = [
        sorted({place for word in own for place in prompt.places_of(word, name)})
        for prompt, own in zip(words, options.local_blend_words, strict=True)
    ]
    return LocalBlend(places, options.local_blend_threshold)


def _heat_places(words: list[PromptWords], word: str) -> list[list[int]]:
    """Return the places of a word in every prompt; none in those that lack it."""
    if not any(prompt.find(word) for prompt in words):
        words[0].places_of(word, _HEAT)
    return [prompt.find(word) for prompt in words]


class AttentionRun:
    """A denoiser with edited attention, for one run; belongs to one thread. Its calls are the steps, in order."""

    def __init__(
        self,
        denoiser: UNet2DConditionModel,
        prompts: int,
        images: int,
        *,
        edit: PromptEdit | None,
        blend: LocalBlend | None,
        heat: Mapping[str, list[list[int]]],
    ) -> None:
        """Nothing is run yet.

        Args:
            denoiser: The denoiser.
            prompts: Number of prompts.
            images: Images for every prompt.
            edit: The edits, or None.
            blend: The local blend, or None.
            heat: Word to its places in every prompt.
        """
        self._denoiser, self._prompts, self._images = denoiser, prompts, images
        self._edit, self._blend, self._heat = edit, blend, heat
        self._calls = 0
        self._maps: FloatArray | None = None

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """Run the denoiser, as `Denoiser.__call__`, and add up the maps of the prompts, whose rows come last."""
        images = self._prompts * self._images
        first = len(sample) - images
        limit = self._denoiser.row_limit
        together = self._edit is None or limit is None or limit >= len(sample)
        groups = [slice(0, len(sample))] if together else [slice(0, first), slice(first, len(sample))]
        parts = [
            self._run(sample, timestep, conditioning, group, first) for group in groups if group.stop > group.start
        ]
        maps = np.concatenate([part[1] for part in parts])[first:]
        self._maps = maps if self._maps is None else self._maps + maps
        self._calls += 1
        return np.concatenate([part[0] for part in parts])

    def _run(
        self, sample: FloatArray, timestep: float, conditioning: Feeds, group: slice, first: int
    ) -> tuple[FloatArray, FloatArray]:
        """Run some rows; `first` is the index of the first prompt's row among all."""
        rows = {name: array[group] if len(array) == len(sample) else array for name, array in conditioning.items()}
        part = sample[group]
        control = dict(neutral_feeds(len(part), conditioning["encoder_hidden_states"].shape[1]))
        if self._edit is not None and group.stop > first:
            edited = max(first - group.start, 0) + self._images
            change, keep = (np.repeat(array, self._images, axis=0) for array in self._edit.at(self._calls))
            control[CROSS_MAP][edited:] = change
            control[CROSS_KEEP][edited:] = keep
            base = np.arange(edited - self._images, edited, dtype=np.int32)
            control[BASE_ROWS][edited:] = np.tile(base, self._prompts - 1)
            control[SELF_LIMIT][:] = self._edit.self_limit(self._calls)
        return run_edited(self._denoiser, part, timestep, {**rows, **control})

    def after_step(self, following: "Callable[[Any, FloatArray], FloatArray] | None") -> Any:
        """Return a function to call after every step: the local blend, and then the one that follows, if any."""
        if self._blend is None:
            return following

        def after(timestep: Any, latents: FloatArray) -> FloatArray:
            assert self._blend is not None
            assert self._maps is not None, "a step comes after a call"
            latents = self._blend(latents, self._maps)
            return latents if following is None else following(timestep, latents)

        return after

    def heat_maps(self) -> dict[str, FloatArray] | None:
        """Return the mean attention of each word so far: word to float32 (B, h, w); None without words."""
        if not self._heat or self._maps is None:
            return None
        maps = (self._maps / np.float32(self._calls)).reshape(self._prompts, self._images, *self._maps.shape[1:])
        found = {}
        for word, places in self._heat.items():
            sums = [one[:, own].sum(1) for one, own in zip(maps, places, strict=True)]
            found[word] = np.concatenate(sums)
        return found
