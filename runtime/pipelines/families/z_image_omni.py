"""Z-Image Omni: hidden states of Qwen 3 for each part of a text, between which images lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.causal_lm import CausalLanguageModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.registry import open_vae
from diffoundry.runtime.models.siglip2_vision import Siglip2VisionModel
from diffoundry.runtime.models.z_image_omni_transformer_2d import (
    ImageGrid,
    OmniFeeds,
    ZImageOmniTransformer2DModel,
    feature_feeds,
    padded_tokens,
    patch_features,
)
from diffoundry.runtime.models.z_image_transformer_2d import PATCH, TOKEN_MULTIPLE
from diffoundry.runtime.pipelines.families.base import EncodeOptions
from diffoundry.runtime.pipelines.families.z_image import (
    HIDDEN_STATE,
    TOKENS,
    ZImage,
    ZImagePromptInputs,
    choose_guidance,
)
from diffoundry.runtime.pipelines.guidance import Condition
from diffoundry.runtime.pipelines.tasks.omni_editing import token_size
from diffoundry.runtime.tokenizers.chat_prompt import ChatPrompt

__all__ = ["ENCODER", "PROCESSOR", "ZImageOmni"]

ENCODER, PROCESSOR = "siglip", "siglip_processor"
"""Folders of the image encoder, and of the preparation of its images."""

_USER, _ASSISTANT = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
_START, _END = "<|vision_start|>", "<|vision_end|>"

Parts = list[FloatArray]
"""Hidden states (tokens, D) of the parts of a text."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The images of a call: their sizes, and their features (patches, D)."""

    grids: Sequence[ImageGrid]
    features: Sequence[FloatArray]


class ZImageOmni(ZImage):
    """Qwen 3, SigLIP 2, and a transformer that sees a text, images and their features as one sequence.

    Tongyi Lab 2025, https://arxiv.org/abs/2511.22699. diffusers: `ZImageOmniPipeline`.
    """

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "omni_editing": {"num_inference_steps": 50, "guidance_scale": 5.0}
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    tasks: ClassVar[tuple[str, ...] | None] = ("omni_editing",)

    def __init__(self, session: EngineSession) -> None:
        """See `Family`."""
        self.denoiser: ZImageOmniTransformer2DModel = ZImageOmniTransformer2DModel(session)
        self._encoder = CausalLanguageModel(session, hidden_states=(HIDDEN_STATE,), tokens=TOKENS)
        self._vision = Siglip2VisionModel(session, ENCODER, PROCESSOR)
        self._pixels = PATCH * open_vae(session, normalize_latents=self.normalize_latents).scale_factor
        self.text_encoders = (self._encoder,)
        self.choose_guidance = choose_guidance

    def encode(self, inputs: ZImagePromptInputs, options: EncodeOptions) -> Condition:
        """See `Family`. diffusers: `ZImageOmniPipeline.encode_prompt`, `prepare_siglip_embeds`.

        Raises:
            InputError: The engine takes no images, or fewer tokens; or there are images and embeddings.
        """
        images = options.task.seen(options.inputs)
        self._check_images(inputs, len(images))
        texts, truncated = self._parts(inputs.prompt_embeds, inputs.texts(), inputs, len(images))
        negative: list[Parts] = []
        if options.guided:
            negative_texts = inputs.negative_texts(guided=True)
            negative, _ = self._parts(inputs.negative_prompt_embeds, negative_texts, inputs, len(images))
        tokens, seen = self._total([*texts, *negative], inputs), self._look(images)
        rows, columns = options.height // self._pixels, options.width // self._pixels
        layout = self.denoiser.layout
        feeds = OmniFeeds(layout.axes, layout.theta, seen.grids, rows, columns)
        times = options.images_per_prompt
        positive, unconditional = (
            {
                **feeds.text_feeds([parts for parts in one for _ in range(times)], tokens),
                **feature_feeds(seen.features, len(one) * times, self._vision.width),
            }
            if one
            else None
            for one in (texts, negative)
        )
        assert positive is not None, "checked: at least one prompt"
        return Condition(conditional=positive, unconditional=unconditional, truncated=truncated)

    def _check_images(self, inputs: ZImagePromptInputs, count: int) -> None:
        if not count:
            return
        if not self.denoiser.takes_images:
            raise InputError(
                f"image: the engine of {self.denoiser.component!r} was made for prompts alone; leave it out, or use an "
                f"engine for onnxruntime or openvino"
            )
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            if getattr(inputs, name) is not None:
                raise InputError(
                    f"{name}: got one with image, expected a text: a text with images is encoded in several parts; "
                    f"pass {name.removesuffix('_embeds')}"
                )

    def _parts(
        self, embeddings: FloatArray | None, texts: list[str], inputs: ZImagePromptInputs, images: int
    ) -> tuple[list[Parts], tuple[str, ...]]:
        """Return the parts of each text, with an image between two, and the piece of each prompt that was cut off."""
        if embeddings is not None:
            return [[row] for row in embeddings.astype(np.float32)], ("",) * len(embeddings)
        before, after = _USER, _ASSISTANT
        if images:
            before, after = _END, _ASSISTANT + _START
        prompts, truncated = self._states(texts, inputs, ChatPrompt(before, after))
        if not images:
            return [[prompt] for prompt in prompts], truncated
        (first, between, last), _ = self._states([_USER + _START, _END + _START, _END + "<|im_end|>"], inputs, None)
        return [[first, *[between] * (images - 1), prompt, last] for prompt in prompts], truncated

    def _states(
        self, texts: list[str], inputs: ZImagePromptInputs, chat: ChatPrompt | None
    ) -> tuple[list[FloatArray], tuple[str, ...]]:
        encoded = self._encoder.encode(texts, inputs.max_sequence_length, chat=chat, longest=True)
        (states,) = encoded.hidden_states
        return [row[seen] for row, seen in zip(states, encoded.attention_mask > 0, strict=True)], encoded.truncated

    def _total(self, texts: list[Parts], inputs: ZImagePromptInputs) -> int:
        """Return the number of tokens of the denoiser's inputs: the least, or that of an engine of one size.

        Raises:
            InputError: A text is longer than the network or the engine takes.
        """
        total = max(padded_tokens(list(map(len, parts))) for parts in texts)
        limit, most = self.denoiser.token_limit, self.denoiser.layout.lengths[0] - 3
        expected = (most if limit is None else min(limit, most)) // TOKEN_MULTIPLE * TOKEN_MULTIPLE
        if total > expected:
            name = "prompt_embeds" if inputs.prompt is None else "max_sequence_length"
            raise InputError(
                f"{name}: got {total} tokens, those of images and of padding included, expected at most {expected}: "
                f"{self.denoiser.component!r} takes no more; shorten the prompt"
            )
        return total if limit is None else limit

    def _look(self, images: Sequence[Any]) -> _Seen:
        """Run the image encoder."""
        grids, features = [], []
        for image in images:
            states = self._vision(image)
            rows, columns = (side // self._pixels for side in token_size(image, self._pixels))
            grids.append(ImageGrid(rows, columns, *states.shape[:2]))
            features.append(patch_features(states))
        return _Seen(grids, features)
