"""Stable Diffusion 1.x and 2.x: the hidden states of one text encoder."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.condition import Condition, Feeds, Frame
from diffoundry.runtime.pipelines.families.base import Prompts, check_clip_skip
from diffoundry.runtime.pipelines.families.clip import ClipEncoder, Encoded, check_token_count
from diffoundry.runtime.pipelines.families.weighting import scale_states

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

    def __init__(self, components: EngineSession) -> None:
        """Read the tokenizer.

        Raises:
            BundleError: The bundle lacks the text encoder or its tokenizer.
        """
        self._components = components
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
        rows, truncated = self._encode(negatives, texts, prompts)
        unconditional, conditional = np.split(rows, [len(negatives)])
        given, negative = prompts.prompt_embeds, prompts.negative_prompt_embeds
        return Condition(
            conditional=_feeds(conditional if given is None else given, frame),
            unconditional=_feeds(unconditional if negative is None else negative, frame) if frame.guided else None,
            truncated=truncated[len(negatives) :] or ("",) * prompts.count,
        )

    def _encode(self, negatives: list[str], texts: list[str], prompts: Prompts) -> tuple[FloatArray, tuple[str, ...]]:
        """Hidden states (B, tokens, D), of the negatives first, and what was cut off; of no text nothing."""
        if not negatives + texts:
            return np.zeros((0, 0, 0), np.float32), ()
        encoder = self._encoder
        read = encoder.read(negatives + texts, weighting=prompts.prompt_weighting, long=prompts.long_prompts)
        chunks = encoder.chunks(read)
        check_token_count(self._components, chunks * encoder.length)
        encoded = encoder.encode(read, chunks)
        last = encoded.outputs["last_hidden_state"]
        rows, skipped = len(negatives) * chunks, self._skip(encoded, prompts.clip_skip)
        states = encoded.join(last if skipped is None else np.concatenate([last[:rows], skipped[rows:]]))
        return scale_states(states, encoded.weights), encoded.truncated

    def _skip(self, encoded: Encoded, clip_skip: int | None) -> FloatArray | None:
        """The hidden states without the last layers, or None where none is left out.

        Raises:
            InputError: Not so many layers, or a bundle whose text encoder does not give them.
        """
        if clip_skip is None:
            return None
        states = encoded.outputs.get("normalized_hidden_states")
        if states is None:
            raise InputError(
                "clip_skip: got it for a bundle whose text encoder gives its last hidden state alone; export it again "
                "with this version of diffoundry, or leave clip_skip out"
            )
        layers = states.shape[1]
        skipped = check_clip_skip(clip_skip, layers)
        return states[:, layers - skipped] if skipped else None


def _feeds(states: FloatArray, frame: Frame) -> Feeds:
    return {"encoder_hidden_states": np.repeat(states.astype(np.float32), frame.images_per_prompt, axis=0)}
