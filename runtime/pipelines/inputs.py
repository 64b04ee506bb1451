"""The arguments of one call, under diffusers' names, sorted and checked before any work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.checks.approximations import check_approximations
from diffoundry.runtime.checks.arguments import (
    as_list,
    check_embeddings,
    check_fraction,
    check_negative,
    check_number,
    check_numbers,
    check_pixels,
    check_prompts,
    check_result,
    check_texts,
)
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.random import GeneratorInput
from diffoundry.runtime.schedulers import SchedulerInput

__all__ = ["CommonInputs", "PromptInputs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonInputs:
    """The arguments of every call, with the names and defaults of diffusers' `StableDiffusionPipeline`.

    Each family has a class for its prompts (`Family.Inputs`), each task one for the arguments that only it needs.

    Attributes:
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; None takes the checkpoint's own size.
        num_inference_steps: Steps of the scheduler.
        timesteps, sigmas: The caller's own instead of `num_inference_steps`.
        mu: The caller's own exponent of the resolution-dependent shift; None computes it where the scheduler takes one.
        denoising_end: The fraction of the schedule after which the run ends, above 0 and below 1, so that another
            model continues with its latents; None runs to the end.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        guidance_rescale: Lin et al. 2023; 0 is off.
        guidance_interval: Fractions of the steps between which guidance runs, such as (0.2, 0.8); None is all steps.
        cache: Forecasts of some steps, see `CacheChoice`: "taylor:1", "sea:0.2", "deep:3"; None is off.
        num_images_per_prompt: Images for every prompt.
        eta: DDIM's eta.
        seed: Seed of torch's CPU generator, or one for each image; None draws one and reports it.
        generator: Generators instead of `seed`: one, or one for each image, ours or torch's.
        latents: Start noise, float32 (B, C, height/8, width/8), instead of drawing it.
        scheduler: Name ("EulerDiscrete", "dpmpp_2m_karras") or class of a scheduler that takes over the checkpoint's
            config, or an instance with a config of its own; None takes the pipeline's.
        output_type: "pil", "np" or "latent".
        callback_on_step_end: Called after every step with the pipeline, the step's index, its timestep and a dict of
            tensors; the dict that it returns replaces them. None calls nothing.
        callback_on_step_end_tensor_inputs: Names of these tensors: "latents", and those of `Family.callback_tensors`.
    """

    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 50
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    mu: float | None = None
    denoising_end: float | None = None
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    cache: str | None = None
    num_images_per_prompt: int = 1
    eta: float = 0.0
    seed: int | Sequence[int] | None = None
    generator: GeneratorInput | None = None
    latents: FloatArray | None = None
    scheduler: SchedulerInput | None = None
    output_type: str = "pil"
    callback_on_step_end: Callable[..., Any] | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)

    def check(self) -> None:
        """Refuse numbers out of range, and arguments that exclude each other.

        Raises:
            InputError: As said.
        """
        for name in ("num_inference_steps", "num_images_per_prompt"):
            check_number(name, getattr(self, name), 1, whole=True)
        for name, high in (("guidance_scale", np.inf), ("guidance_rescale", 1.0), ("eta", 1.0)):
            check_number(name, getattr(self, name), 0, high)
        for name in ("height", "width"):
            check_pixels(name, getattr(self, name))
        for name in ("timesteps", "sigmas"):
            check_numbers(name, getattr(self, name))
        check_numbers("mu", None if self.mu is None else [self.mu])
        check_result(self.output_type, self.seed, self.generator)
        check_fraction("denoising_end", self.denoising_end)
        check_approximations(self.guidance_interval, self.cache)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptInputs:
    """The texts of one call; a family with more arguments derives from it.

    Attributes:
        prompt: One prompt or several; None where `prompt_embeds` are given.
        negative_prompt: One for all prompts, or one for each; only used with guidance.
        prompt_embeds: float32 (B, tokens, D), fed to the denoiser instead of encoded prompts.
        negative_prompt_embeds: The same of the negative prompts.
    """

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    prompt_embeds: FloatArray | None = None
    negative_prompt_embeds: FloatArray | None = None

    @property
    def count(self) -> int:
        """Number of prompts."""
        if self.prompt_embeds is not None:
            return len(self.prompt_embeds)
        return 1 if isinstance(self.prompt, str) else len(self.prompt or ())

    def check(self) -> None:
        """Refuse arguments that are no texts, and lists that do not fit each other.

        Raises:
            InputError: As said.
        """
        check_prompts("prompt", self.prompt)
        if (self.prompt is None) == (self.prompt_embeds is None):
            got = "neither" if self.prompt is None else "both"
            raise InputError(f"prompt and prompt_embeds: got {got}, expected one of them")
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise InputError("negative_prompt and negative_prompt_embeds: got both, expected one of them")
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            check_embeddings(name, getattr(self, name), self.count, 3)
        check_texts("negative_prompt", self.negative_prompt, self.count)
        check_negative(self.prompt_embeds, self.negative_prompt_embeds)

    def texts(self) -> list[str]:
        """The prompts to encode; none where embeddings are given instead."""
        return [] if self.prompt is None else as_list(self.prompt, self.count)

    def negative_texts(self, *, guided: bool) -> list[str]:
        """The negative prompts to encode; none without guidance, or where embeddings are given instead."""
        needed = guided and self.negative_prompt_embeds is None
        return as_list(self.negative_prompt or "", self.count) if needed else []
