"""Stable Diffusion XL and its refiner: hidden states of two text encoders, a pooled vector, and the image's sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from diffoundry.runtime.checks.arguments import as_list, is_whole
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import flag
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.prompt_weights import stretch_states
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.families.clip_skip import check_clip_skip
from diffoundry.runtime.pipelines.families.pooled_prompts import check_pooled_prompts
from diffoundry.runtime.pipelines.families.stable_diffusion import CLIPPromptInputs, check_token_count
from diffoundry.runtime.pipelines.guidance import Condition
from diffoundry.runtime.pipelines.inputs import PromptInputs

__all__ = ["StableDiffusionXL", "XLPromptInputs"]

_SCORES = 6.0, 2.5
_CORNER = (0, 0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SizeConditions(CLIPPromptInputs):
    """Prompts with sizes as (height, width) in pixels; Podell et al. 2023, section 2.2, https://arxiv.org/abs/2307.01952.

    Attributes:
        original_size: Of the image before it was scaled to the size generated; None takes the size generated.
        crops_coords_top_left: (top, left) of the part that was cut out; (0, 0) centres things.
        target_size: As `original_size`, afterwards.
        negative_original_size: For the negative prompt; None takes the other.
        negative_crops_coords_top_left: The same.
        negative_target_size: The same.
        aesthetic_score: Score of a refiner's image, 0 to 10.
        negative_aesthetic_score: For the negative prompt.
    """

    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = _CORNER
    target_size: tuple[int, int] | None = None
    negative_original_size: tuple[int, int] | None = None
    negative_crops_coords_top_left: tuple[int, int] = _CORNER
    negative_target_size: tuple[int, int] | None = None
    aesthetic_score: float = _SCORES[0]
    negative_aesthetic_score: float = _SCORES[1]

    def check_sizes(self) -> None:
        """Refuse sizes that are no pair of whole numbers, and scores that are no numbers.

        Raises:
            InputError: The first of them.
        """
        for name in ("original_size", "crops_coords_top_left", "target_size"):
            for key in (name, f"negative_{name}"):
                value = getattr(self, key)
                if value is not None and not _is_pair(value):
                    raise InputError(f"{key}: got {value!r}, expected two whole numbers of at least 0, vertical first")
        for key in ("aesthetic_score", "negative_aesthetic_score"):
            value = getattr(self, key)
            if not isinstance(value, int | float) or not np.isfinite(value):
                raise InputError(f"{key}: got {value!r}, expected a number such as 6")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class XLPromptInputs(SizeConditions):
    """The texts and sizes of one call.

    Attributes:
        prompt_2: For the second text encoder, one or one for each prompt; None takes `prompt`.
        negative_prompt_2: The same of `negative_prompt`.
        pooled_prompt_embeds: float32 (B, P), the pooled vector that belongs to `prompt_embeds`.
        negative_pooled_prompt_embeds: The same of `negative_prompt_embeds`.
    """

    prompt_2: str | Sequence[str] | None = None
    negative_prompt_2: str | Sequence[str] | None = None
    pooled_prompt_embeds: FloatArray | None = None
    negative_pooled_prompt_embeds: FloatArray | None = None

    def check(self) -> None:
        """See `PromptInputs.check`."""
        CLIPPromptInputs.check(self)
        check_pooled_prompts(self, ("_2",))
        self.check_sizes()


class StableDiffusionXL(Family):
    """Two text encoders, or the second alone.

    Podell et al. 2023, https://arxiv.org/abs/2307.01952. diffusers: `StableDiffusionXLPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = XLPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"guidance_scale": 5.0},
        "image_to_image": {"guidance_scale": 5.0, "strength": 0.3},
        "inpainting": {"guidance_scale": 7.5, "strength": 0.9999},
        "instruction": {"guidance_scale": 5.0, "num_inference_steps": 100},
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"guidance_scale": 5.0},
        "image_to_image": {"guidance_scale": 5.0, "strength": 0.8, "controlnet_conditioning_scale": 0.8},
        "inpainting": {"guidance_scale": 5.0, "strength": 0.9999},
    }
    t2i_adapter_defaults: ClassVar[Mapping[str, Any]] = {"adapter_conditioning_factor": 1.0}
    skip_normalization_tasks: ClassVar[tuple[str, ...]] = ("inpainting",)
    rescales_instruction: ClassVar[bool] = True
    begin_index: ClassVar[int | None] = 0
    normalize_latents: ClassVar[bool] = True
    callback_tensors: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "encoder_hidden_states",
        "add_text_embeds": "text_embeds",
        "add_time_ids": "time_ids",
    }

    def __init__(self, session: EngineSession) -> None:
        """See `Family`; a refiner requires an image to start from."""
        bundle = session.bundle
        self.denoiser = UNet2DConditionModel(session)
        names = [name for name in ("text_encoder", "text_encoder_2") if name in bundle.components]
        self._encoders = tuple(CLIPTextModel(session, name) for name in (*names[:-1], "text_encoder_2"))
        self.text_encoders = self._encoders
        index, subject = bundle.model_index, "model_index.json"
        self._zeros = flag(index, "force_zeros_for_empty_prompt", default=True, subject=subject)
        self._scored = flag(index, "requires_aesthetics_score", default=False, subject=subject)
        self.required_args = ("image",) if self._scored else ()

    def encode(self, inputs: XLPromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `StableDiffusionXLPipeline.encode_prompt`, `_get_add_time_ids`."""
        no_negative = inputs.negative_prompt is None and inputs.negative_prompt_embeds is None
        zeros = no_negative and self._zeros
        self._check(inputs, zeros=zeros)
        negatives = self._negative_texts(inputs, guided=options.guided and not zeros)
        texts = self._both(inputs.texts(), inputs.prompt_2)
        states, pooled, truncated = self._encode(negatives, texts, inputs)
        rows, times = len(negatives[0]), options.images_per_prompt
        sizes = size_rows(inputs, options, inputs.count * times, scored=self._scored)
        conditional = _feeds(
            states[rows:] if inputs.prompt_embeds is None else inputs.prompt_embeds,
            pooled[rows:] if inputs.pooled_prompt_embeds is None else inputs.pooled_prompt_embeds,
            times,
        )
        unconditional: Feeds = {name: np.zeros_like(values) for name, values in conditional.items()}
        if not zeros:
            negative, negative_pooled = inputs.negative_prompt_embeds, inputs.negative_pooled_prompt_embeds
            unconditional = _feeds(
                states[:rows] if negative is None else negative,
                pooled[:rows] if negative_pooled is None else negative_pooled,
                times,
            )
        return Condition(
            conditional={**conditional, "time_ids": sizes.conditional},
            unconditional={**unconditional, "time_ids": sizes.unconditional} if options.guided else None,
            truncated=truncated or ("",) * inputs.count,
        )

    def _check(self, inputs: XLPromptInputs, *, zeros: bool) -> None:
        if zeros and inputs.negative_prompt_2 is not None:
            raise InputError(
                "negative_prompt_2 needs negative_prompt: without it this checkpoint ignores both; pass both"
            )
        for name in ("prompt_2", "negative_prompt_2"):
            if len(self._encoders) == 1 and getattr(inputs, name) is not None:
                raise InputError(f"{name}: this checkpoint has only one text encoder; leave it out")

    def _negative_texts(self, inputs: XLPromptInputs, *, guided: bool) -> tuple[list[str], ...]:
        return self._both(inputs.negative_texts(guided=guided), inputs.negative_prompt_2)

    def _both(self, first: list[str], second: str | Sequence[str] | None) -> tuple[list[str], ...]:
        """Return the texts of each encoder; a single encoder gets the first, as in diffusers."""
        return (first, as_list(second, len(first)) if second and first else first)[: len(self._encoders)]

    def _encode(
        self, negatives: tuple[list[str], ...], texts: tuple[list[str], ...], inputs: XLPromptInputs
    ) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
        """Return hidden states side by side, the pooled vector, and the parts of the texts that were cut off.

        Rows: the negatives first, whose states are always those of the last layer but one.
        """
        skipped = inputs.clip_skip or 0
        if skipped != 0:
            check_clip_skip(skipped, min(encoder.layers for encoder in self._encoders) - 1)
        if not negatives[0] + texts[0]:
            return np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.float32), ()
        prompts = [
            encoder.tokenize(before + after, weighting=inputs.prompt_weighting, long=inputs.long_prompts)
            for encoder, before, after in zip(self._encoders, negatives, texts, strict=True)
        ]
        chunks = max(encoder.chunks(some) for encoder, some in zip(self._encoders, prompts, strict=True))
        check_token_count(self.denoiser, chunks * self._encoders[0].length)
        count = len(negatives[0])
        states, cut = [], [""] * len(texts[0])
        for encoder, some in zip(self._encoders, prompts, strict=True):
            encoded = encoder.encode(some, chunks)
            outputs, rows, layer = encoded.outputs, count * chunks, encoder.layers - 1
            last, chosen = outputs[f"hidden_states.{layer}"], outputs[f"hidden_states.{layer - skipped}"]
            joined = encoded.join(np.concatenate([last[:rows], chosen[rows:]]))
            weighted = inputs.prompt_weighting
            states.append(stretch_states(joined, encoded.weights, encoder.length) if weighted else joined)
            cut = [old or new for old, new in zip(cut, encoded.truncated[count:], strict=True)]
        return np.concatenate(states, axis=-1), encoded.pooled("text_embeds"), tuple(cut)


def _feeds(states: FloatArray, pooled: FloatArray, times: int) -> dict[str, FloatArray]:
    return {
        "encoder_hidden_states": np.repeat(states.astype(np.float32), times, axis=0),
        "text_embeds": np.repeat(pooled.astype(np.float32), times, axis=0),
    }


def _is_pair(value: object) -> bool:
    if not isinstance(value, Sequence) or len(value) != 2:
        return False
    return all(is_whole(one) and 0 <= one < 2**31 for one in value)


class SizeRows(NamedTuple):
    """`time_ids`, a row an image: float32 (B, 6), of a refiner (B, 5)."""

    conditional: FloatArray
    unconditional: FloatArray


def size_rows(sizes: SizeConditions, options: EncodeOptions, images: int, *, scored: bool) -> SizeRows:
    """Return the rows of some images.

    diffusers: `_get_add_time_ids` of `StableDiffusionXLPipeline` and of `StableDiffusionXLImg2ImgPipeline`, and how
    each uses the rows.

    Args:
        sizes: Checked.
        options: The image.
        images: B.
        scored: True if the denoiser takes the score instead of the target size.

    Raises:
        InputError: An argument that would have no effect.
    """
    own = options.height, options.width
    original, target = tuple(sizes.original_size or own), tuple(sizes.target_size or own)
    first = (*original, *sizes.crops_coords_top_left)
    if scored:
        _refuse_unused(sizes, scored=True, corner=True)
        second = (*tuple(sizes.negative_original_size or original), *sizes.negative_crops_coords_top_left)
        return _repeated((*first, sizes.aesthetic_score), (*second, sizes.negative_aesthetic_score), images)
    if options.from_image:
        _refuse_unused(sizes, scored=False, corner=False)
        negative = tuple(sizes.negative_original_size or original), tuple(sizes.negative_target_size or target)
        # With the corner of the other, as diffusers has it.
        return _repeated((*first, *target), (*negative[0], *sizes.crops_coords_top_left, *negative[1]), images)
    both = sizes.negative_original_size, sizes.negative_target_size
    _refuse_unused(sizes, scored=False, corner=None not in both)
    if any(both) and None in both:
        raise InputError("negative_original_size and negative_target_size: got one of them, expected both")
    if both[0] is None or both[1] is None or not options.guided:
        return _repeated((*first, *target), (*first, *target), images)
    second = (*both[0], *sizes.negative_crops_coords_top_left, *both[1])
    # In turns down both halves, as diffusers has it: with several images the halves do not tell them apart.
    rows = np.tile(np.asarray([second, (*first, *target)], np.float32), (images, 1))
    return SizeRows(conditional=rows[images:], unconditional=rows[:images])


def _repeated(first: tuple[float, ...], second: tuple[float, ...], images: int) -> SizeRows:
    rows = [np.tile(np.asarray(row, np.float32), (images, 1)) for row in (first, second)]
    return SizeRows(conditional=rows[0], unconditional=rows[1])


def _refuse_unused(sizes: SizeConditions, *, scored: bool, corner: bool) -> None:
    """Refuse arguments that diffusers would silently ignore.

    Args:
        sizes: Checked.
        scored: True if scores are used instead of target sizes.
        corner: True if the negative prompt's corner counts.
    """
    unused = {
        "target_size": scored and sizes.target_size is not None,
        "negative_target_size": scored and sizes.negative_target_size is not None,
        "aesthetic_score": not scored and sizes.aesthetic_score != _SCORES[0],
        "negative_aesthetic_score": not scored and sizes.negative_aesthetic_score != _SCORES[1],
        "negative_crops_coords_top_left": not corner and tuple(sizes.negative_crops_coords_top_left) != _CORNER,
    }
    for name, given in unused.items():
        if given:
            raise InputError(f"{name}: got {getattr(sizes, name)!r}, which is not used here; leave it out")
