"""VQ-Diffusion: text to image by a diffusion of codes, each of which becomes a patch of the image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.checks.arguments import check_number
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import announced
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.images.postprocess import postprocess
from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.sampling_embeddings import LearnedClassifierFreeSamplingEmbeddings
from diffoundry.runtime.models.transformer_2d import Transformer2DModel
from diffoundry.runtime.models.vq_model import CodeArray, VQModel
from diffoundry.runtime.pipelines.denoising import Step
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.pipelines.systems.prompt_inputs import PromptInputs
from diffoundry.runtime.schedulers.algorithms.vq_diffusion import VQDiffusionScheduler
from diffoundry.runtime.tokenizers.clip import check_texts

__all__ = ["VQDiffusion", "VQDiffusionInputs", "truncate"]

_LOWEST = np.float32(-70)
"""Logarithm that a code of no probability gets. diffusers: `VQDiffusionPipeline.__call__`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VQDiffusionInputs(PromptInputs):
    """The arguments of diffusers' `VQDiffusionPipeline`.

    Attributes:
        prompt: One prompt or several.
        negative_prompt: Refused: guidance is away from what the checkpoint learned as no prompt.
        num_inference_steps: Steps of the scheduler, at most as many as the transformer knows.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        truncation_rate: Each code is drawn among the most likely ones whose probabilities add up to this, 0 to 1.
        num_images_per_prompt: Images for every prompt.
        latents: Codes to start with, whole numbers (B, pixels), instead of the mask everywhere.
    """

    unconditional: ClassVar[str] = "what it learned as no prompt"

    num_inference_steps: int = 100
    guidance_scale: float = 5.0
    truncation_rate: float = 1.0
    latents: CodeArray | None = None

    def check(self) -> None:
        """Refuse missing prompts, negative prompts, and numbers out of range.

        Raises:
            InputError: As said.
        """
        self.check_prompt()
        check_number("guidance_scale", self.guidance_scale, 0)
        check_number("truncation_rate", self.truncation_rate, 0, 1.0)


class VQDiffusion(StagedPipeline):
    """diffusers: `VQDiffusionPipeline`. Gu et al. 2021, https://arxiv.org/abs/2111.14822.

    Latents are codes int64 (B, pixels), rows of an image one after another. The last code is the mask, with which a
    run starts and which no finished image has.

    Attributes:
        transformer: The denoiser.
        text_encoder: CLIP's.
        embeddings: Conditioning of the unconditional half.
        vae: The VQModel whose codes are drawn.
    """

    Inputs: ClassVar[type[Any]] = VQDiffusionInputs
    label: ClassVar[str] = "images of a text"
    own_loop: ClassVar[bool] = True
    only_scheduler: ClassVar[str | None] = VQDiffusionScheduler.__name__

    def open_networks(self, session: EngineSession) -> None:
        """See `StagedPipeline`.

        Raises:
            BundleError: Transformer, scheduler and VQModel differ in the number of codes.
        """
        self.transformer = self.denoiser = Transformer2DModel(session)
        self.text_encoder = CLIPTextModel(session)
        self.text_encoders = (self.text_encoder,)
        self.embeddings = LearnedClassifierFreeSamplingEmbeddings(session)
        self.vae = VQModel(session)
        classes, known = self.transformer.classes, self.scheduler.config["num_vec_classes"]
        if known != classes or self.vae.codes < classes - 1:
            raise BundleError(
                f"bundle {session.bundle.root}: got a transformer of {classes} codes with the mask, a scheduler of "
                f"{known}, and a VQModel of {self.vae.codes} without; expected {classes}, {classes} and {classes - 1}. "
                f"Correct the configs of the checkpoint and export it again"
            )

    @property
    def scale_factor(self) -> int:
        """See `PipelineBase`."""
        return self.vae.scale_factor

    def truncated(self, inputs: VQDiffusionInputs) -> tuple[str, ...]:
        """See `StagedPipeline`.

        Raises:
            InputError: A prompt is no valid Unicode.
        """
        check_texts(inputs.texts)
        tokenizer, room = self.text_encoder.tokenizer, self.text_encoder.length - 1
        return tuple(tokenizer.decode(tokenizer.ids(text)[room:]) for text in inputs.texts)

    def setting_arguments(self, steps: int, guidance_scale: float) -> dict[str, Any]:
        """See `PipelineBase`.

        Raises:
            InputError: There are more steps than the transformer knows.
        """
        self._check_steps(steps)
        return super().setting_arguments(steps, guidance_scale)

    def _check_steps(self, steps: int) -> None:
        if steps > self.transformer.steps:
            raise InputError(
                f"num_inference_steps: got {steps}, expected at most {self.transformer.steps}: the transformer has no "
                f"embedding of further timesteps; pass fewer"
            )

    def stages(self, call: StagedCall) -> Sequence[Stage]:
        """See `StagedPipeline`."""
        inputs, scheduler = call.inputs, self.require_scheduler(call.scheduler, VQDiffusionScheduler)
        self._check_steps(inputs.num_inference_steps)
        scheduler.set_timesteps(inputs.num_inference_steps)
        shape = self.transformer.latent_shape(call.images, *call.size, self.vae)
        start = np.full(shape, self.transformer.classes - 1, np.int64)
        if inputs.latents is not None:
            start = self._check_codes("latents", inputs.latents, shape)
        return [
            Stage(
                name="denoising", total=len(scheduler.timesteps), run=lambda _: self._run(call, scheduler, start.copy())
            )
        ]

    def _run(self, call: StagedCall, scheduler: VQDiffusionScheduler, codes: CodeArray) -> Iterator[Step]:
        """Draw all codes again in every step."""
        inputs, guided = call.inputs, call.inputs.guidance_scale > 1
        conditioning = {"encoder_hidden_states": self._encode(inputs, guided=guided)}
        total = len(scheduler.timesteps)
        for index, timestep in enumerate(announced(scheduler.timesteps)):
            if call.stops():
                return
            rows = np.concatenate([codes, codes]) if guided else codes
            output = self.transformer(rows, timestep, conditioning)
            if guided:
                output = _guide(output, inputs.guidance_scale)
            output = np.maximum(truncate(output, inputs.truncation_rate), _LOWEST)
            drawn = _step(scheduler, output, int(timestep), codes, call.generator)
            changed = call.finish_step(index, float(timestep), cast("FloatArray", drawn))
            codes = self._check_codes("callback_on_step_end: latents", changed, codes.shape)
            yield Step(index=index, total=total, timestep=float(timestep), latents=cast("FloatArray", codes))

    def _encode(self, inputs: VQDiffusionInputs, *, guided: bool) -> FloatArray:
        """Return the prompts' states (B, 77, D), those of no prompt first where there is guidance."""
        states = self._states(inputs.texts)
        rows = np.repeat(states, inputs.num_images_per_prompt, axis=0)
        if not guided:
            return rows
        if self.embeddings.learnable:
            empty = self.embeddings.embeddings(*rows.shape[1:])[np.newaxis]
        else:
            empty = self._states([""])
        return np.concatenate([np.repeat(empty, len(rows), axis=0), rows])

    def _states(self, texts: Sequence[str]) -> FloatArray:
        """Return normalized states; a long prompt loses its end token, as in diffusers."""
        tokenizer, length = self.text_encoder.tokenizer, self.text_encoder.length
        bodies = [tokenizer.ids(text)[: length - 1] for text in texts]
        rows = [tokenizer.frame(body, max(length, len(body) + 2))[:length] for body in bodies]
        outputs = self.text_encoder.encode_ids(np.stack(rows))
        return self.embeddings.normalize(outputs["last_hidden_state"])

    def _check_codes(self, name: str, codes: npt.NDArray[Any], shape: tuple[int, ...]) -> CodeArray:
        """Return codes as int64.

        Raises:
            InputError: They are of another shape, or out of range.
        """
        if codes.shape != shape:
            raise InputError(f"{name}: got shape {codes.shape}, expected {shape}: the codes of each image in one row")
        classes = self.transformer.classes
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < classes:
            raise InputError(
                f"{name}: got codes from {codes.min()} to {codes.max()}, expected 0 to {classes - 1}, the mask"
            )
        return codes.astype(np.int64)

    def decode(self, latents: FloatArray, output_type: str = "pil") -> Any:
        """See `StagedPipeline`: codes (B, pixels). Masked patches, as previews have them, are vectors of zeros."""
        if output_type == "latent":
            return latents
        side = self.transformer.side
        codes = latents.astype(np.int64).reshape(len(latents), side, side)
        masked = codes == self.transformer.classes - 1
        vectors = self.vae.look_up(np.where(masked, 0, codes)) * ~masked[:, np.newaxis]
        return postprocess(self.vae.decode(vectors, quantize=False), output_type)


def _guide(output: FloatArray, scale: float) -> FloatArray:
    """Combine log probabilities (2 B, classes, pixels), the unconditional half first, so that they add up to 1."""
    without, text = np.split(output, 2)
    combined = without + np.float32(scale) * (text - without)
    peak = combined.max(axis=1, keepdims=True)
    normalized: FloatArray = combined - (np.log(np.exp(combined - peak).sum(axis=1, keepdims=True)) + peak)
    return normalized


def truncate(log_p: FloatArray, rate: float) -> FloatArray:
    """Set all but the most likely codes to a probability of 0. diffusers: `VQDiffusionPipeline.truncate`.

    Args:
        log_p: float32 (B, classes, pixels).
        rate: Sum of the probabilities before the last code that is kept; the most likely one always is.

    Returns:
        float32 (B, classes, pixels), minus infinity for the others.
    """
    order = np.argsort(-log_p, axis=1, kind="stable")
    # torch rounds each exponential to float32, and adds them up in float64
    wide = np.take_along_axis(log_p, order, axis=1).astype(np.float64)
    total = np.exp(wide).astype(np.float32).cumsum(axis=1, dtype=np.float64).astype(np.float32)
    keep = np.ones(log_p.shape, bool)
    np.put_along_axis(keep, order[:, 1:], total[:, :-1] < np.float32(rate), axis=1)
    return np.where(keep, log_p, np.float32(-np.inf))


def _step(
    scheduler: VQDiffusionScheduler, output: FloatArray, timestep: int, codes: CodeArray, source: Any
) -> CodeArray:
    """Draw the next codes, from one generator or from one for each image."""
    if not isinstance(source, Sequence):
        return scheduler.step(output, timestep, codes, generator=source).prev_sample
    return np.concatenate(
        [
            scheduler.step(output[row : row + 1], timestep, codes[row : row + 1], generator=one).prev_sample
            for row, one in enumerate(source)
        ]
    )
