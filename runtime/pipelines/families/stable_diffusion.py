"""Stable Diffusion 1.x and 2.x: the last hidden state of one text encoder."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.components import Components
from diffoundry.runtime.pipelines.condition import Condition, Feeds, Frame
from diffoundry.runtime.pipelines.families.base import Prompts
from diffoundry.runtime.pipelines.families.clip import ClipEncoder

__all__ = ["StableDiffusion"]

FloatArray = npt.NDArray[np.float32]


class StableDiffusion:
    """Drives text_encoder; see `Family`. diffusers: `StableDiffusionPipeline`."""

    Arguments: ClassVar[type[Prompts]] = Prompts
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    guided_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {},
        "image_to_image": {"controlnet_conditioning_scale": 0.8},
        "inpainting": {"controlnet_conditioning_scale": 0.5},
    }
    unstandardized: ClassVar[tuple[str, ...]] = ()
    first_index: ClassVar[int | None] = None
    standardizes: ClassVar[bool] = False
    needs: tuple[str, ...] = ()

    def __init__(self, components: Components) -> None:
        """Read the tokenizer.

        Raises:
            BundleError: The bundle lacks the text encoder or its tokenizer.
        """
        self._encoder = ClipEncoder(components)

    @property
    def encoders(self) -> tuple[ClipEncoder, ...]:
        """See `Family`."""
        return (self._encoder,)

    def mend(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Family`: what old checkpoints have wrong.

        diffusers: `StableDiffusionPipeline.__init__`, "steps_offset" and "clip_sample".
        """
        mended: dict[str, Any] = {}
        if config.get("steps_offset", 1) != 1:
            mended["steps_offset"] = 1
        if config.get("clip_sample", False) is True:
            mended["clip_sample"] = False
        return mended

    def encode(self, prompts: Prompts, frame: Frame) -> Condition:
        """See `Family`. diffusers: `StableDiffusionPipeline.encode_prompt`."""
        negatives, texts = prompts.negative_texts(guided=frame.guided), prompts.texts(prompts.count)
        rows, truncated = self._encode(negatives + texts)
        unconditional, conditional = np.split(rows, [len(negatives)])
        given, negative = prompts.prompt_embeds, prompts.negative_prompt_embeds
        return Condition(
            conditional=_feeds(conditional if given is None else given, frame),
            unconditional=_feeds(unconditional if negative is None else negative, frame) if frame.guided else None,
            truncated=truncated[len(negatives) :] or ("",) * prompts.count,
        )

    def _encode(self, texts: list[str]) -> tuple[FloatArray, tuple[str, ...]]:
        """Hidden states (B, 77, D), of no text none, and what was cut off."""
        if not texts:
            return np.zeros((0, 0, 0), np.float32), ()
        encoded = self._encoder(texts)
        return encoded.outputs["last_hidden_state"], encoded.truncated


def _feeds(states: FloatArray, frame: Frame) -> Feeds:
    return {"encoder_hidden_states": np.repeat(states.astype(np.float32), frame.pictures_per_prompt, axis=0)}
