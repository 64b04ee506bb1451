"""Qwen-Image-Edit: the language model and the denoiser see images, which a prompt changes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.qwen_image_transformer_2d import QwenImageTransformer2DModel
from diffoundry.runtime.models.qwen_vision import ImageTokens, QwenVisionEncoder
from diffoundry.runtime.models.qwen_vl_text import IMAGE_PAD, QwenVLTextModel
from diffoundry.runtime.pipelines.families.base import EncodeOptions
from diffoundry.runtime.pipelines.families.qwen_image import (
    EncodedTexts,
    QwenImage,
    QwenImagePromptInputs,
    choose_guidance,
)

__all__ = ["EDIT_TOKENS", "QwenImageEdit", "QwenImageEditPlus"]

EDIT_TOKENS = 2048
"""Tokens of a prompt with its images in engines of one size."""

_DROPPED = 64
"""Tokens of the text before a prompt, whose hidden states are dropped."""

_BEFORE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n"
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
_IMAGE = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"


class QwenImageEdit(QwenImage):
    """Qwen 2.5 VL with its image encoder, and a transformer over tokens of several images.

    Qwen team 2025, https://arxiv.org/abs/2508.02324. diffusers: `QwenImageEditPipeline`,
    `QwenImageEditInpaintPipeline`.
    """

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "prompt_editing": {"num_inference_steps": 50},
        "prompt_edit_inpainting": {"num_inference_steps": 50, "strength": 0.6},
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    tasks: ClassVar[tuple[str, ...] | None] = ("prompt_editing", "prompt_edit_inpainting")

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: QwenImageTransformer2DModel = QwenImageTransformer2DModel(session)
        self._language_model: QwenVLTextModel = QwenVLTextModel(session, tokens=EDIT_TOKENS)
        self._vision = QwenVisionEncoder(session)
        self.text_encoders = (self._language_model,)
        self.choose_guidance = choose_guidance

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:
        """See `Family`: those of a result of exactly this size."""
        return {"height": height, "width": width}

    def _most(self, inputs: QwenImagePromptInputs) -> int | None:  # noqa: ARG002
        return None

    def _look(self, options: EncodeOptions, count: int) -> list[list[ImageTokens]]:
        shown = options.task.shown(count)
        known = {id(image): image for images in shown for image in images}
        tokens = {key: self._vision(image) for key, image in known.items()}
        return [[tokens[id(image)] for image in images] for images in shown]

    def _encode(self, texts: list[str], tokens: Any, seen: list[list[ImageTokens]]) -> EncodedTexts:  # noqa: ARG002
        whole = [_BEFORE + self._images(len(images)) + text + _AFTER for text, images in zip(texts, seen, strict=True)]
        encoded = self._language_model.encode_with_images(whole, seen)
        (states,) = encoded.hidden_states
        return states[:, _DROPPED:], encoded.attention_mask[:, _DROPPED:], encoded.truncated

    def _images(self, count: int) -> str:
        """Return the text for the images of a prompt."""
        return _IMAGE * count


class QwenImageEditPlus(QwenImageEdit):
    """The same with several images, which have numbers. diffusers: `QwenImageEditPlusPipeline`."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"several_image_editing": {"num_inference_steps": 50}}
    tasks: ClassVar[tuple[str, ...] | None] = ("several_image_editing",)

    def _images(self, count: int) -> str:
        """See `QwenImageEdit`."""
        return "".join(f"Picture {index + 1}: {_IMAGE}" for index in range(count))
