"""Stable Diffusion XL and its refiner: hidden states of two text encoders, a pooled vector, and the image's sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.condition import Condition, Feeds, Frame
from diffoundry.runtime.pipelines.families.base import Prompts, as_list, check_clip_skip, check_embeddings, check_texts
from diffoundry.runtime.pipelines.families.clip import ClipEncoder, check_token_count
from diffoundry.runtime.pipelines.families.size_conditions import SizeConditions, size_rows
from diffoundry.runtime.pipelines.families.weighting import stretch_states

__all__ = ["StableDiffusionXL", "XLPrompts"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class XLPrompts(SizeConditions):
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
        """See `Prompts.check`."""
        Prompts.check(self)
        for name, embeddings in (("prompt", self.prompt_embeds), ("negative_prompt", self.negative_prompt_embeds)):
            check_texts(f"{name}_2", getattr(self, f"{name}_2"), self.count)
            pooled = f"{name.removesuffix('prompt')}pooled_prompt_embeds"
            check_embeddings(pooled, getattr(self, pooled), self.count, 2)
            if (embeddings is None) != (getattr(self, pooled) is None):
                raise InputError(f"{name}_embeds and {pooled}: got one of them, expected both")
            if embeddings is not None and getattr(self, f"{name}_2") is not None:
                raise InputError(f"{name}_2 and {name}_embeds: got both, expected one of them")
        self.check_sizes()


class StableDiffusionXL:
    """Drives text_encoder and text_encoder_2, or the second alone; see `Family`.

    Podell et al. 2023, https://arxiv.org/abs/2307.01952. diffusers: `StableDiffusionXLPipeline`.
    """

    Arguments: ClassVar[type[Prompts]] = XLPrompts
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"guidance_scale": 5.0},
        "image_to_image": {"guidance_scale": 5.0, "strength": 0.3},
        "inpainting": {"guidance_scale": 7.5, "strength": 0.9999},
    }
    guided_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"guidance_scale": 5.0},
        "image_to_image": {"guidance_scale": 5.0, "strength": 0.8, "controlnet_conditioning_scale": 0.8},
        "inpainting": {"guidance_scale": 5.0, "strength": 0.9999},
    }
    unstandardized: ClassVar[tuple[str, ...]] = ("inpainting",)
    first_index: ClassVar[int | None] = 0
    standardizes: ClassVar[bool] = True

    def __init__(self, components: EngineSession) -> None:
        """Read tokenizers and what model_index.json says.

        Raises:
            BundleError: The bundle lacks the second text encoder, a tokenizer or a config.
        """
        self._components, bundle = components, components.bundle
        names = [name for name in ("text_encoder", "text_encoder_2") if name in bundle.components]
        self.encoders = tuple(ClipEncoder(components, name) for name in (*names[:-1], "text_encoder_2"))
        self._layers = tuple(int(bundle.config(one.name)["num_hidden_layers"]) for one in self.encoders)
        self._zeros = bool(bundle.model_index.get("force_zeros_for_empty_prompt", True))
        self._scored = bool(bundle.model_index.get("requires_aesthetics_score", False))

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Family`: a refiner begins with an image."""
        return ("image",) if self._scored else ()

    def mend(self, _config: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Family`: nothing."""
        return {}

    def encode(self, prompts: XLPrompts, frame: Frame) -> Condition:
        """See `Family`. diffusers: `StableDiffusionXLPipeline.encode_prompt`, `_get_add_time_ids`."""
        no_negative = prompts.negative_prompt is None and prompts.negative_prompt_embeds is None
        zeros = no_negative and self._zeros
        self._check(prompts, zeros=zeros)
        negatives = self._negative_texts(prompts, guided=frame.guided and not zeros)
        texts = self._both(prompts.texts(prompts.count), prompts.prompt_2)
        states, pooled, truncated = self._encode(negatives, texts, prompts)
        rows, times = len(negatives[0]), frame.images_per_prompt
        sizes = size_rows(prompts, frame, prompts.count * times, scored=self._scored)
        conditional = _feeds(
            states[rows:] if prompts.prompt_embeds is None else prompts.prompt_embeds,
            pooled[rows:] if prompts.pooled_prompt_embeds is None else prompts.pooled_prompt_embeds,
            times,
        )
        unconditional: Feeds = {name: np.zeros_like(values) for name, values in conditional.items()}
        if not zeros:
            given, given_pooled = prompts.negative_prompt_embeds, prompts.negative_pooled_prompt_embeds
            unconditional = _feeds(
                states[:rows] if given is None else given,
                pooled[:rows] if given_pooled is None else given_pooled,
                times,
            )
        return Condition(
            conditional={**conditional, "time_ids": sizes.conditional},
            unconditional={**unconditional, "time_ids": sizes.unconditional} if frame.guided else None,
            truncated=truncated or ("",) * prompts.count,
        )

    def _check(self, prompts: XLPrompts, *, zeros: bool) -> None:
        if zeros and prompts.negative_prompt_2 is not None:
            raise InputError(
                "negative_prompt_2: got it without negative_prompt, which this checkpoint then takes for nothing at "
                "all; pass both"
            )
        for name in ("prompt_2", "negative_prompt_2"):
            if len(self.encoders) == 1 and getattr(prompts, name) is not None:
                raise InputError(f"{name}: got it, but this checkpoint has one text encoder; leave it out")

    def _negative_texts(self, prompts: XLPrompts, *, guided: bool) -> tuple[list[str], ...]:
        return self._both(prompts.negative_texts(guided=guided), prompts.negative_prompt_2)

    def _both(self, first: list[str], second: str | Sequence[str] | None) -> tuple[list[str], ...]:
        """The texts of each encoder; diffusers gives the only one the first."""
        return (first, as_list(second, len(first)) if second and first else first)[: len(self.encoders)]

    def _encode(
        self, negatives: tuple[list[str], ...], texts: tuple[list[str], ...], prompts: XLPrompts
    ) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
        """Hidden states beside each other, the pooled vector, and what of the texts was cut off.

        Rows: the negatives first, whose states are always those of the last layer but one.
        """
        skipped = check_clip_skip(prompts.clip_skip, min(self._layers) - 1)
        if not negatives[0] + texts[0]:
            return np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.float32), ()
        read = [
            encoder.read(before + after, weighting=prompts.prompt_weighting, long=prompts.long_prompts)
            for encoder, before, after in zip(self.encoders, negatives, texts, strict=True)
        ]
        chunks = max(encoder.chunks(some) for encoder, some in zip(self.encoders, read, strict=True))
        check_token_count(self._components, chunks * self.encoders[0].length)
        count = len(negatives[0])
        states, cut = [], [""] * len(texts[0])
        for encoder, layers, some in zip(self.encoders, self._layers, read, strict=True):
            encoded = encoder.encode(some, chunks)
            outputs, rows = encoded.outputs, count * chunks
            last, chosen = outputs[f"hidden_states.{layers - 1}"], outputs[f"hidden_states.{layers - 1 - skipped}"]
            joined = encoded.join(np.concatenate([last[:rows], chosen[rows:]]))
            states.append(stretch_states(joined, encoded.weights, encoder.length))
            cut = [old or new for old, new in zip(cut, encoded.truncated[count:], strict=True)]
        return np.concatenate(states, axis=-1), encoded.pooled("text_embeds"), tuple(cut)


def _feeds(states: FloatArray, pooled: FloatArray, times: int) -> dict[str, FloatArray]:
    return {
        "encoder_hidden_states": np.repeat(states.astype(np.float32), times, axis=0),
        "text_embeds": np.repeat(pooled.astype(np.float32), times, axis=0),
    }
