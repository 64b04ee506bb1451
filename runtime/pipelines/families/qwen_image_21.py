"""Qwen-Image 2.1: a language model that sees images, and a transformer over single latents that sees them too."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.formats.config_values import refuse
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.qwen3_vision import Qwen3VisionEncoder
from diffoundry.runtime.models.qwen_image_21_transformer_2d import SLOT, STARTS, QwenImage21Transformer2DModel
from diffoundry.runtime.models.qwen_vision import ImageTokens
from diffoundry.runtime.models.qwen_vl_text import IMAGE_PAD, Qwen3VLTextModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions, Family
from diffoundry.runtime.pipelines.families.qwen_image import TrueGuidancePromptInputs, padded_length
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Condition, Guidance, Unguided
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs

__all__ = ["SYSTEM_MESSAGE", "TOKENS", "QwenImage21", "QwenImage21PromptInputs"]

SYSTEM_MESSAGE = "Comprehend and analyze the provided prompt."
"""Message of the system before each prompt, whose hidden states are dropped. diffusers: `sys_prompt`."""

TOKENS = 512
"""Tokens of a prompt in engines of one size."""

_FOLDER = "processor"
_LATENT = 16
"""Pixels to a side of a latent."""

_USER = "<|im_start|>user\n"
_END = "<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QwenImage21PromptInputs(TrueGuidancePromptInputs):
    """The texts of one call."""

    true_cfg_scale: float = 1.0


def _choose_guidance(
    _inputs: CommonInputs, prompts: QwenImage21PromptInputs, _denoiser: QwenImage21Transformer2DModel
) -> Guidance:
    """Guide by a negative prompt. See `Family.choose_guidance`."""
    return ClassifierFreeGuidance(scale=prompts.true_cfg_scale) if prompts.guided else Unguided()


class QwenImage21(Family):
    """Qwen 3 VL with its image encoder, and a transformer whose text and other images do not see the result.

    diffusers: `QwenImage21Pipeline`.

    Attributes:
        sample_sigmas: The checkpoint's own sigmas, from which the number of steps follows; none by default.
        ignored_args: Arguments that diffusers' class lacks.
    """

    Inputs: ClassVar[type[PromptInputs]] = QwenImage21PromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "image_conditioning": {"num_inference_steps": 40, "guidance_scale": 1.0}
    }
    begin_index: ClassVar[int | None] = 0
    even_sigmas: ClassVar[bool] = True
    scales_latents: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("image_conditioning",)
    ignored_args: ClassVar[tuple[str, ...]] = ("guidance_scale",)
    transparent: ClassVar[bool] = True

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: QwenImage21Transformer2DModel = QwenImage21Transformer2DModel(session)
        self._language_model = Qwen3VLTextModel(session, tokens=TOKENS, folder=_FOLDER)
        self._vision = Qwen3VisionEncoder(session)
        self.text_encoders = (self._language_model,)
        self.choose_guidance = _choose_guidance
        self._before, self._dropped = self._read_system_message(session)
        self.sample_sigmas = _read_sigmas(session.bundle.model_index)
        if self.sample_sigmas:
            given = {"num_inference_steps": len(self.sample_sigmas), "sigmas": list(self.sample_sigmas)}
            self.defaults = {name: {**known, **given} for name, known in self.defaults.items()}  # type: ignore[misc]  # of this checkpoint

    def _read_system_message(self, session: EngineSession) -> tuple[str, int]:
        """Return the text before that of the user, and its number of tokens in the checkpoint's chat template."""
        prefix = self._language_model.chat_prompt().prefix
        if not prefix.endswith(_USER):
            raise BundleError(
                f"bundle {session.bundle.root}: got a chat template with {prefix!r} before a prompt, expected one that "
                f"ends with {_USER!r}; export the bundle from the published processor"
            )
        counted = self._language_model.tokenizer([prefix.removesuffix(_USER)], max_length=2**15, pad_to=0)
        return f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n", counted.input_ids.shape[1]

    def pack(self, latents: FloatArray) -> FloatArray:
        """See `Family`: tokens in a row, (B, tokens, C)."""
        count, channels, height, width = latents.shape
        return latents.reshape(count, channels, height * width).transpose(0, 2, 1)

    def unpack(self, latents: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        """See `Family`."""
        count, channels, height, width = shape
        if latents.shape != (count, height * width, channels):
            return latents
        return latents.transpose(0, 2, 1).reshape(shape)

    def encode(self, inputs: QwenImage21PromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `QwenImage21Pipeline.encode_prompt`."""
        images = [self._see(image) for image in options.task.shown()]
        if images and (inputs.prompt_embeds is not None or inputs.negative_prompt_embeds is not None):
            name = "prompt_embeds" if inputs.prompt_embeds is not None else "negative_prompt_embeds"
            raise InputError(f"{name}: got hidden states beside image, expected a prompt, which is read with it")
        known, mask = inputs.prompt_embeds, inputs.prompt_embeds_mask
        rows = [self._encode(inputs.texts(), images) if known is None else _given(known, mask)]
        if options.guided:
            known, mask = inputs.negative_prompt_embeds, inputs.negative_prompt_embeds_mask
            texts = inputs.negative_texts(guided=True)
            rows.append(self._encode(texts, images) if known is None else _given(known, mask))
        length = padded_length(self.denoiser, max(feeds["encoder_hidden_states"].shape[1] for feeds in rows))
        conditional, *unconditional = (_fill(feeds, length, options.images_per_prompt) for feeds in rows)
        return Condition(
            conditional=conditional,
            unconditional=unconditional[0] if unconditional else None,
            truncated=("",) * inputs.count,
        )

    def _encode(self, texts: list[str], images: list[ImageTokens]) -> Feeds:
        """Return hidden states of texts without tokens of images, their mask, and where images are between them."""
        shown = " ".join(f"<image{index + 1}><|vision_start|>{IMAGE_PAD}<|vision_end|>" for index in range(len(images)))
        whole = [f"{self._before}{_USER}{shown}{text or ' '}{_END}" for text in texts]
        encoded = self._language_model.encode_with_images(whole, [images] * len(texts))
        assert encoded.image_mask is not None
        slots = encoded.image_mask[0, self._dropped :]  # images come before the prompts, at the same places in each row
        (states,) = encoded.hidden_states
        feeds: dict[str, FloatArray] = {
            "encoder_hidden_states": states[:, self._dropped :][:, ~slots],
            "encoder_hidden_states_mask": encoded.attention_mask[:, self._dropped :][:, ~slots],
        }
        if images:
            counts = np.cumsum([0, *(image.rows * image.columns for image in images[:-1])])
            starts = np.flatnonzero(slots)[counts] - counts
            feeds[STARTS] = np.tile(starts.astype(np.float32), (len(texts), 1))
        return feeds

    def _see(self, image: Any) -> ImageTokens:
        """Return the tokens of an image.

        Raises:
            InputError: The checkpoint's processor makes it of another size, so that tokens and latents do not fit.
        """
        tokens, multiple = self._vision(image), SLOT * _LATENT
        if (tokens.rows * multiple, tokens.columns * multiple) != (image.height, image.width):
            raise InputError(
                f"output_resolution: got images of {image.width} x {image.height} pixels with it, expected ones that "
                f"processor/preprocessor_config.json leaves as they are, not {tokens.columns * multiple} x "
                f"{tokens.rows * multiple}; choose another"
            )
        return tokens


def _read_sigmas(index: Mapping[str, Any]) -> tuple[float, ...]:
    """Read `sample_sigmas` of model_index.json.

    Raises:
        ConfigError: They are no falling numbers between 0 and 1.
    """
    found = index.get("sample_sigmas")
    if found is None:
        return ()
    fits = isinstance(found, list) and all(isinstance(one, int | float) and 0 < one <= 1 for one in found)
    if not fits or not found or any(left <= right for left, right in pairwise(found)):
        raise refuse("model_index.json", "sample_sigmas", found, "falling numbers above 0 and at most 1, or null")
    return tuple(map(float, found))


def _given(states: FloatArray, mask: FloatArray | None) -> Feeds:
    known = np.ones(states.shape[:2], np.float32) if mask is None else np.asarray(mask, np.float32)
    return {"encoder_hidden_states": states.astype(np.float32), "encoder_hidden_states_mask": known}


def _fill(feeds: Feeds, length: int, times: int) -> Feeds:
    """Pad tokens to a length, for several images of each prompt, whose rows follow each other."""
    room = (0, 0), (0, length - feeds["encoder_hidden_states"].shape[1])
    filled = {
        **feeds,
        "encoder_hidden_states": np.pad(feeds["encoder_hidden_states"], (*room, (0, 0))),
        "encoder_hidden_states_mask": np.pad(feeds["encoder_hidden_states_mask"], room),
    }
    return {name: np.repeat(rows, times, axis=0) for name, rows in filled.items()}
