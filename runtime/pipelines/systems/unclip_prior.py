"""The prior of unCLIP: texts as it reads them, and its stage, from a prompt to an image embedding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.models.clip_text import CLIPTextModel
from diffoundry.runtime.models.clip_text_mask import attention_mask
from diffoundry.runtime.models.prior_transformer import PriorTransformer
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.pipelines.denoising import Predict, Step
from diffoundry.runtime.pipelines.staged_call import StagedCall
from diffoundry.runtime.pipelines.staged_run import Stage
from diffoundry.runtime.schedulers import Scheduler

__all__ = ["EncodedTexts", "encode_texts", "guided", "prior_stage", "repeat_texts"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedTexts:
    """Encoded prompts.

    Attributes:
        vectors: float32 (B, D).
        states: float32 (B, tokens, D).
        mask: float32 (B, tokens): 0 for padding, 1 for other tokens.
    """

    vectors: FloatArray
    states: FloatArray
    mask: FloatArray

    def parts(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return all arrays."""
        return self.vectors, self.states, self.mask

    def feeds(self) -> Feeds:
        """Return the inputs of a prior."""
        return {"proj_embedding": self.vectors, "encoder_hidden_states": self.states, "attention_mask": self.mask}


def encode_texts(encoder: CLIPTextModel, texts: Sequence[str]) -> EncodedTexts:
    """Encode prompts, one row each. diffusers: `UnCLIPPipeline._encode_prompt`."""
    prompts = encoder.tokenize(texts, weighting=False, long=False)
    outputs = encoder.encode(prompts, 1).outputs
    return EncodedTexts(
        vectors=outputs["text_embeds"], states=outputs["last_hidden_state"], mask=attention_mask(encoder, prompts)
    )


def repeat_texts(texts: EncodedTexts, count: int, encoder: CLIPTextModel, *, guided: bool) -> EncodedTexts:
    """Repeat each prompt, and prepend as many rows of the empty prompt for guidance.

    Args:
        texts: One row a prompt.
        count: Images of each prompt.
        encoder: Encodes the empty prompt.
        guided: True to prepend it.
    """
    rows = [np.repeat(part, count, axis=0) for part in texts.parts()]
    if guided:
        empty = encode_texts(encoder, [""]).parts()
        rows = [np.concatenate([np.repeat(one, len(row), axis=0), row]) for one, row in zip(empty, rows, strict=True)]
    return EncodedTexts(vectors=rows[0], states=rows[1], mask=rows[2])


def guided(predict: Predict, scale: float) -> Predict:
    """Return a model with guidance; a predicted variance is that of the conditional half.

    diffusers: section "decoder" of `UnCLIPPipeline.__call__`.
    """

    def predict_guided(sample: FloatArray, timestep: float, index: int) -> FloatArray:
        unconditional, conditional = np.split(predict(np.concatenate([sample, sample]), timestep, index), 2)
        means = [half[:, : sample.shape[1]] for half in (unconditional, conditional)]
        mean = means[0] + np.float32(scale) * (means[1] - means[0])
        return np.concatenate([mean, conditional[:, sample.shape[1] :]], axis=1)

    return predict_guided


def prior_stage(
    call: StagedCall,
    prior: PriorTransformer,
    scheduler: Scheduler,  # type: ignore[type-arg]  # of any options
    texts: EncodedTexts,
    scale: float | None,
    *,
    eta: float = 0.0,
    scale_input: bool = False,
) -> Stage:
    """Return the stage of the image embeddings; its result is in the prior's own scale.

    Args:
        call: The call, whose inputs have `prior_latents`.
        prior: The network.
        scheduler: With its timesteps set.
        texts: With the rows of the empty prompt where there is guidance.
        scale: Guidance scale; None without guidance.
        eta: DDIM's eta.
        scale_input: True if the prior takes latents as the scheduler scales them.
    """
    feeds = texts.feeds()

    def predict(sample: FloatArray, timestep: float, _index: int) -> FloatArray:
        return prior(sample, timestep, feeds)

    def run(_: FloatArray | None) -> Iterator[Step]:
        noise = call.start_noise(prior.latent_shape(call.images), call.inputs.prior_latents, "prior_latents")
        return call.denoise(
            predict if scale is None else guided(predict, scale),
            noise * np.float32(scheduler.init_noise_sigma),
            scheduler=scheduler,
            eta=eta,
            scale_input=scale_input,
            last=False,
        )

    return Stage(name="prior", total=len(scheduler.model_timesteps), run=run)
