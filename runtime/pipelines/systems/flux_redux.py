"""FLUX.1 Redux: an image, and possibly a prompt, to the embeddings of a prompt for FLUX.1."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.clip_vision import CLIPVisionModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.redux_image_encoder import ReduxImageEncoder
from diffoundry.runtime.models.roles import TEXT_ENCODER
from diffoundry.runtime.pipelines.base import PipelineBase
from diffoundry.runtime.pipelines.families.flux import Flux
from diffoundry.runtime.pipelines.families.flux_text import TOKENS, FluxTextEncoders
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.flux_redux_inputs import FluxReduxInputs, ReduxEmbeddings

__all__ = ["FluxPriorRedux"]

_POOLED = 768
"""Width of the pooled vector without text encoders, as diffusers has it."""

_LIMIT = 4.0
"""Numbers of an embedding that are drawn as black and white."""


class FluxPriorRedux(StagedPipeline):
    """diffusers: `FluxPriorReduxPipeline`.

    It has no scheduler and no steps: SigLIP and one more network run once. Its text encoders are its own, where the
    checkpoint has them, or those of the FLUX.1 after it in a chain. Without a prompt the tokens of T5 and the pooled
    vector are zeros, as diffusers has them without text encoders.
    """

    Inputs: ClassVar[type[Any]] = FluxReduxInputs
    label: ClassVar[str] = "embeddings of prompts"
    scheduler_folders: ClassVar[tuple[str, ...]] = ()
    scales_latents: ClassVar[bool] = False  # type: ignore[misc]  # as in the base
    makes_images = False
    decides = frozenset({"prompt", "prompt_2"})

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`."""
        self._encoder, self._embedder = CLIPVisionModel(session), ReduxImageEncoder(session)
        self._texts = FluxTextEncoders(session) if session.bundle.with_role(TEXT_ENCODER) else None
        self.text_encoders = () if self._texts is None else (self._texts.clip, self._texts.t5)

    def precede(self, following: PipelineBase) -> None:
        """See `PipelineBase`: its text encoders encode the prompts of the chain, where this bundle has none."""
        family = getattr(following, "family", None)
        if self._texts is None and isinstance(family, Flux):
            self._texts = family.texts

    @property
    def stepped_component(self) -> str:
        """See `PipelineBase`: the image encoder, which runs once."""
        return self._encoder.component

    @property
    def needs_prompt(self) -> bool:
        """See `PipelineBase`."""
        return False

    @property
    def example_inputs(self) -> tuple[str, ...]:
        """See `PipelineBase`."""
        return ("image",)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the images that the image encoder takes; the result has none."""
        height, width = next(spec.shape for spec in self.session.inputs(self._encoder.component))[2:]
        assert isinstance(height, int), "as the exporter declares it"
        assert isinstance(width, int), "as the exporter declares it"
        return height, width

    def images(self, inputs: FluxReduxInputs) -> int:  # noqa: ARG002
        """See `StagedPipeline`: the embeddings of several images are added up."""
        return 1

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`: it has none, but its arguments are checked here."""
        inputs: FluxReduxInputs = call.inputs
        for name, width in (("prompt_embeds", self._embedder.width), ("pooled_prompt_embeds", self._pooled)):
            given = getattr(inputs, name)
            if given is not None and given.shape[-1] != width:
                raise InputError(f"{name}: got {given.shape[-1]} numbers a row, expected {width}")
        if inputs.prompt is not None and self._texts is None:
            raise InputError(
                f"prompt: got one, but {self.session.bundle.root.name} has no text encoders; chain it with FLUX.1, "
                f"whose text encoders read it, or leave it out"
            )
        return []

    @property
    def _pooled(self) -> int:
        """Width of the pooled vector."""
        if self._texts is None:
            return _POOLED
        session, name = self._texts.session, self._texts.clip.name
        return integer(session.bundle.config(name), "hidden_size", 512, subject=f"{name}/config.json")

    def _encode_texts(self, inputs: FluxReduxInputs) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
        """Return hidden states (images, tokens, D), pooled vectors (images, P), and the parts that were cut off."""
        count = len(inputs.images)
        if inputs.prompt_embeds is not None and inputs.pooled_prompt_embeds is not None:
            return inputs.prompt_embeds.astype(np.float32), inputs.pooled_prompt_embeds.astype(np.float32), ()
        if inputs.prompt is None or self._texts is None:
            zeros = np.zeros((count, TOKENS, self._embedder.width), np.float32)
            return zeros, np.zeros((count, self._pooled), np.float32), ()
        return self._texts.encode(inputs.texts("prompt"), inputs.texts("prompt_2"), TOKENS)

    def result(self, call: StagedCall, latents: FloatArray, seed: Any, truncated: tuple[str, ...]) -> ReduxEmbeddings:  # noqa: ARG002
        """See `StagedPipeline`. diffusers: `FluxPriorReduxPipeline.__call__`."""
        inputs: FluxReduxInputs = call.inputs
        embeds = self._embedder(self._encoder(self._encoder.prepare(inputs.images)))
        states, pooled, cut = self._encode_texts(inputs)
        tokens = np.concatenate([states, embeds], axis=1) * inputs.scales("prompt_embeds_scale")[:, None, None]
        vectors = pooled * inputs.scales("pooled_prompt_embeds_scale")[:, None]
        return ReduxEmbeddings(
            prompt_embeds=tokens.sum(axis=0, keepdims=True),
            pooled_prompt_embeds=vectors.sum(axis=0, keepdims=True),
            seed=seed,
            truncated=cut,
        )

    def check_call(self, arguments: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """See `PipelineBase`; "tokens" is the number of tokens of the result."""
        count, values = super().check_call(arguments)
        given = values.get("prompt_embeds")
        return count, {**values, "tokens": self._embedder.tokens + (TOKENS if given is None else given.shape[1])}

    def handed_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """See `PipelineBase`."""
        return {
            "prompt_embeds": ("images", "tokens", self._embedder.width),
            "pooled_prompt_embeds": ("images", self._pooled),
        }

    def handed_over(self, result: ReduxEmbeddings) -> dict[str, Any]:
        """See `PipelineBase`."""
        return {"prompt_embeds": result.prompt_embeds, "pooled_prompt_embeds": result.pooled_prompt_embeds}

    def measured_images(self, result: ReduxEmbeddings) -> FloatArray:
        """See `PipelineBase`: the tokens of the image as rows of grey pixels."""
        grey = np.clip(result.prompt_embeds[:, -self._embedder.tokens :] / (2 * _LIMIT) + 0.5, 0, 1).astype(np.float32)
        return np.repeat(grey[..., None], 3, axis=-1)
