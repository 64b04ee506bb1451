"""Prepares texts with images for Qwen 2.5 VL and Qwen 3 VL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["ImageTextProcessor", "mark_images"]

_PAD = "<|image_pad|>"


class ImageTextProcessor:
    """Does what transformers' `Qwen2_5_VLProcessor` and `Qwen3VLProcessor` do with images.

    Those also need torchvision, for videos.
    """

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        """Read the config of the preparation of images; the tokenizer is that of the checkpoint."""
        self.image_processor = transformers.Qwen2VLImageProcessor.from_pretrained(folder, local_files_only=True)
        self.tokenizer = tokenizer

    def __call__(self, text: Sequence[str], images: Any = None, **options: Any) -> transformers.BatchFeature:
        """Return tokens, and of images their pixels and grids. The token of an image is repeated for its patches."""
        if images is None:
            return transformers.BatchFeature(self.tokenizer(text, **options))
        seen = self.image_processor(images=images, return_tensors="pt")
        counts = iter(seen["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2)
        whole = []
        for one in text:
            first, *rest = one.split(_PAD)
            whole.append(first + "".join(_PAD * int(next(counts)) + part for part in rest))
        return transformers.BatchFeature({**self.tokenizer(whole, **options), **seen})

    def apply_chat_template(self, messages: Sequence[Any], **options: Any) -> list[Any]:
        """Return the tokens of a chat, in a list of one chat as those do."""
        return [self.tokenizer.apply_chat_template(messages, **options)]


def mark_images(model: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, ...]:
    """Say which tokens are of images, a hook of a forward pass.

    transformers 5 places them on rows and columns only then, and diffusers 0.42.1 does not say it.
    """
    if options.get("pixel_values") is not None:
        images: torch.Tensor = options["input_ids"] == model.config.image_token_id
        options = {**options, "mm_token_type_ids": images.int()}
    return args, options
