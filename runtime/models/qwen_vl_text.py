"""The language models of Qwen 2.5 VL and Qwen 3 VL with images, whose tokens are in a text, on places of their own."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import integer, integers, refuse
from diffoundry.runtime.models.causal_lm import CausalLanguageModel, EncodedPrompts
from diffoundry.runtime.models.qwen3_vision import deepstack_names
from diffoundry.runtime.models.qwen_vision import ImageTokens

__all__ = ["IMAGE_PAD", "Qwen3VLTextModel", "QwenVLTextModel", "image_positions"]

IMAGE_PAD = "<|image_pad|>"
"""Text of the token of an image."""

_AXES = 3
_MOST = 2**15
"""Most tokens of a text with its images."""


class QwenVLTextModel(CausalLanguageModel):
    """transformers: `Qwen2_5_VLForConditionalGeneration`.

    Rotary positions of a token have three parts, the time, the row and the column, which are equal in text.
    """

    default_sections: ClassVar[tuple[int, ...]] = (16, 24, 24)

    def __init__(self, session: EngineSession, *, tokens: int, folder: str | None = None) -> None:
        """See `CausalLanguageModel`; the last hidden state is read."""
        super().__init__(session, hidden_states=(-1,), tokens=tokens, folder=folder)
        config, subject = session.bundle.config(self.name), f"{self.name}/config.json"
        nested = config.get("text_config")
        own = nested if isinstance(nested, dict) else config
        rotary = own.get("rope_parameters") or own.get("rope_scaling") or {}
        sections = integers(rotary, "mrope_section", self.default_sections, subject=subject)
        if len(sections) != _AXES or sum(sections) != self.layout.head // 2:
            raise refuse(
                subject, "mrope_section", list(sections), f"three numbers that add up to {self.layout.head // 2}"
            )
        self._axis_of_channel = self._axes(sections)
        self._image_token = integer(config, "image_token_id", 151655, subject=subject, maximum=2**31)

    def encode_with_images(self, texts: Sequence[str], images: Sequence[Sequence[ImageTokens]]) -> EncodedPrompts:
        """Run the encoder.

        Args:
            texts: At least one, with `IMAGE_PAD` once for each of its images.
            images: Of each text.

        Raises:
            InputError: A prompt has the text of an image's token, or the engine was made for fewer tokens.
        """
        fixed = self.fixed_tokens
        whole = [_expand(text, shown) for text, shown in zip(texts, images, strict=True)]
        batch = self.tokenizer(whole, max_length=_MOST, pad_to=fixed or 0, padding_side="right")
        rows, columns = batch.input_ids.shape
        if fixed is not None and columns > fixed:
            raise InputError(
                f"image: got {columns} tokens with the prompt, expected at most {fixed}: the engine of {self.name!r} "
                f"was made for no more; use an engine for onnxruntime or openvino"
            )
        mask = batch.input_ids == self._image_token
        cos, sin = self._angles(np.stack([image_positions(*pair) for pair in zip(mask, images, strict=True)]))
        feeds = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "rotary_cos": cos,
            "rotary_sin": sin,
            "image_mask": mask.astype(np.float32),
            **self._image_feeds(mask, images),
        }
        outputs = Outputs(self._session.run(self.name, feeds), self.name)
        states = tuple(outputs.take(name, (rows, columns, self.layout.width)) for name in self._outputs)
        return EncodedPrompts(
            hidden_states=states, attention_mask=batch.attention_mask, truncated=("",) * rows, image_mask=mask
        )

    def _axes(self, sections: Sequence[int]) -> np.ndarray:
        """Return the axis that each channel counts, (head / 2,), for the number of channels of each axis."""
        return np.repeat(np.arange(_AXES), sections)

    def _image_feeds(self, mask: np.ndarray, images: Sequence[Sequence[ImageTokens]]) -> dict[str, np.ndarray]:
        """Return the inputs for images, whose tokens `mask` (B, S) marks."""
        return {"image_embeds": self._place(mask, [[image.embeds for image in shown] for shown in images])}

    def _place(self, mask: np.ndarray, features: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Return features (tokens, D) of the images of each row at their tokens, and zeros elsewhere, (B, S, D)."""
        placed = np.zeros((*mask.shape, self.layout.width), np.float32)
        for row, shown in enumerate(features):
            if shown:
                placed[row, mask[row]] = np.concatenate(shown)
        return placed

    def _angles(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and sines, float32 (B, S, head / 2), of positions (B, S, 3)."""
        exponents = np.arange(0, self.layout.head, 2, dtype=np.float32) / np.float32(self.layout.head)
        frequencies = np.float32(1.0) / np.power(np.float64(self.layout.theta), exponents).astype(np.float32)
        angles = positions[..., self._axis_of_channel].astype(np.float32) * frequencies
        return np.cos(angles), np.sin(angles)


class Qwen3VLTextModel(QwenVLTextModel):
    """transformers: `Qwen3VLForConditionalGeneration`, whose first layers see features of images again.

    The axes of the positions take turns in the channels.
    """

    default_sections: ClassVar[tuple[int, ...]] = (24, 20, 20)

    def __init__(self, session: EngineSession, *, tokens: int, folder: str | None = None) -> None:
        """See `QwenVLTextModel`."""
        super().__init__(session, tokens=tokens, folder=folder)
        self._deep = deepstack_names(session.bundle.config(self.name), f"{self.name}/config.json")

    def _axes(self, sections: Sequence[int]) -> np.ndarray:
        """See `QwenVLTextModel`. transformers: `Qwen3VLTextRotaryEmbedding.recomposition_frequencies`."""
        axes = np.zeros(self.layout.head // 2, np.int64)
        for axis in range(1, _AXES):
            axes[axis : _AXES * sections[axis] : _AXES] = axis
        return axes

    def _image_feeds(self, mask: np.ndarray, images: Sequence[Sequence[ImageTokens]]) -> dict[str, np.ndarray]:
        """See `QwenVLTextModel`."""
        deep = {
            name: self._place(mask, [[image.deep[index] for image in shown] for shown in images])
            for index, name in enumerate(self._deep)
        }
        return {**super()._image_feeds(mask, images), **deep}


def image_positions(mask: np.ndarray, images: Sequence[ImageTokens]) -> np.ndarray:
    """Return positions (tokens, 3) of a text with images. transformers: `Qwen2_5_VLModel.get_rope_index`.

    Args:
        mask: True at tokens of images, (tokens,).
        images: Those of the text, in their order.
    """
    places, following = [], 0
    starts = iter(images)
    index = 0
    while index < len(mask):
        if mask[index]:
            image = next(starts)
            rows, columns = np.divmod(np.arange(image.rows * image.columns), image.columns)
            part = np.stack([np.zeros_like(rows), rows, columns], axis=-1)
            step = max(image.rows, image.columns)
        else:
            ends = np.flatnonzero(mask[index:])
            step = int(ends[0]) if len(ends) else len(mask) - index
            part = np.repeat(np.arange(step)[:, None], _AXES, axis=1)
        places.append(part + following)
        following += step
        index += len(part)
    return np.concatenate(places)


def _expand(text: str, images: Sequence[ImageTokens]) -> str:
    """Repeat the token of each image.

    Raises:
        InputError: The text has it more often.
    """
    parts = text.split(IMAGE_PAD)
    if len(parts) != len(images) + 1:
        raise InputError(f"prompt: got a text with {IMAGE_PAD}, expected one without it: it is a token of images")
    counts = [IMAGE_PAD * (image.rows * image.columns) for image in images]
    return "".join(part + more for part, more in zip(parts, [*counts, ""], strict=True))
