"""The decoder of Kandinsky 2.1, which takes the prompt beside the image embeddings."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.multilingual_clip import MultilingualCLIP
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.systems.kandinsky_decoder import KandinskyDecoder
from diffoundry.runtime.pipelines.systems.kandinsky_inputs import (
    TextDecoderImageInputs,
    TextDecoderInpaintInputs,
    TextDecoderInputs,
)

__all__ = ["KandinskyTextDecoder"]

_TOKENS = 77
"""Tokens of a prompt, although XLM-R takes 512."""


class KandinskyTextDecoder(KandinskyDecoder):
    """diffusers: `KandinskyPipeline`, `KandinskyImg2ImgPipeline`, `KandinskyInpaintPipeline`.

    Razzhigaev et al. 2023, https://arxiv.org/abs/2310.03502.
    """

    Inputs: ClassVar[type[Any]] = TextDecoderInputs
    label: ClassVar[str] = "images of a text and embeddings"
    kinds: ClassVar[tuple[type[Any], type[Any], type[Any]]] = (
        TextDecoderInputs,
        TextDecoderImageInputs,
        TextDecoderInpaintInputs,
    )
    blends: ClassVar[bool] = False

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        super().open_networks(session)
        self._text_encoder = MultilingualCLIP(session)
        self.text_encoders = (self._text_encoder,)

    def truncated(self, inputs: TextDecoderInputs) -> tuple[str, ...]:
        """See `StagedPipeline`."""
        return self._text_encoder.tokenizer(inputs.texts, max_length=_TOKENS).truncated

    def _add_noise(self, call: StagedCall, latents: FloatArray, timestep: Any) -> FloatArray:  # noqa: ARG002
        """Add noise by the schedule of the original code, which is not that of the scheduler.

        diffusers: `KandinskyImg2ImgPipeline.add_noise`.
        """
        latents = latents * np.float32(call.scheduler.init_noise_sigma)
        steps = call.scheduler.config.get("num_train_timesteps", 1000)
        start = int(steps * call.inputs.strength) - 2
        alpha = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000, dtype=np.float32))[start]
        noisy: FloatArray = np.sqrt(alpha) * latents + np.sqrt(1 - alpha) * call.randn(latents.shape)
        return noisy

    def _feeds(self, inputs: Any, copies: int, images: int) -> Feeds:
        """See `KandinskyDecoder`; with the prompt's states, and their projected mean."""
        texts: Sequence[str] = [*(inputs.negatives if copies > 1 else []), *inputs.texts]
        encoded = self._text_encoder.encode(texts, _TOKENS)
        rows = {"encoder_hidden_states": encoded.last_hidden_state, "text_embeds": encoded.text_embeds}
        times = images // len(inputs.texts)
        return {
            **super()._feeds(inputs, copies, images),
            **{name: np.repeat(values, times, axis=0) for name, values in rows.items()},
        }
