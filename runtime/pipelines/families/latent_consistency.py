"""Latent consistency models: Stable Diffusion distilled to a few steps, with the guidance scale as an input."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.pipelines.families.stable_diffusion import CLIPPromptInputs, StableDiffusion
from diffoundry.runtime.pipelines.inputs import CommonInputs, PromptInputs
from diffoundry.runtime.schedulers import Scheduler
from diffoundry.runtime.schedulers.algorithms.lcm import LCMScheduler

__all__ = ["ConsistencyPromptInputs", "LatentConsistency"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConsistencyPromptInputs(CLIPPromptInputs):
    """Prompts, and the schedule of the distillation. There is no negative prompt: guidance was distilled with "".

    Attributes:
        original_inference_steps: Steps of the distillation's schedule, of which a run takes some; None takes the
            scheduler's own.
    """

    original_inference_steps: int | None = None

    def check(self) -> None:
        """See `PromptInputs.check`."""
        CLIPPromptInputs.check(self)
        for name in ("negative_prompt", "negative_prompt_embeds"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name}: latent consistency models take none, because their guidance was distilled with an empty "
                    f"one; leave it out"
                )
        steps = self.original_inference_steps
        if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
            raise InputError(f"original_inference_steps: got {steps!r}, expected a whole number of at least 1")


class LatentConsistency(StableDiffusion):
    """Luo et al. 2023, https://arxiv.org/abs/2310.04378.

    diffusers: `LatentConsistencyModelPipeline`, `LatentConsistencyModelImg2ImgPipeline`.
    """

    Inputs: ClassVar[type[PromptInputs]] = ConsistencyPromptInputs
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "text_to_image": {"num_inference_steps": 4, "guidance_scale": 8.5},
        "image_to_image": {"num_inference_steps": 4, "guidance_scale": 8.5},
    }
    controlnet_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    callback_tensors: ClassVar[Mapping[str, str]] = {
        "prompt_embeds": "encoder_hidden_states",
        "w_embedding": "timestep_cond",
    }
    tasks: ClassVar[tuple[str, ...] | None] = ("text_to_image", "image_to_image")
    plans_strength: ClassVar[bool] = True
    ends_denoised: ClassVar[bool] = True
    plans_timesteps: ClassVar[bool] = True

    def __init__(self, session: EngineSession) -> None:
        """See `Family`.

        Raises:
            BundleError: As `Family`, or the denoiser takes no guidance scale.
        """
        super().__init__(session)
        if not self.denoiser.embeds_guidance:
            raise BundleError(
                f"bundle {session.bundle.root}: got a denoiser without time_cond_proj_dim, expected one: a latent "
                f"consistency model takes the guidance scale as an input"
            )

    def set_timesteps(self, scheduler: Scheduler[Any], inputs: CommonInputs, prompts: Any, task: Any) -> int:
        """See `Family.set_timesteps`; the scheduler leaves out what `strength` skips.

        diffusers: `retrieve_timesteps` with `original_inference_steps` and `strength`.
        """
        if not isinstance(scheduler, LCMScheduler):
            raise InputError(
                f"scheduler: got {type(scheduler).__name__}, expected LCMScheduler: latent consistency models run no "
                f"other"
            )
        if getattr(task, "denoising_start", None) is not None:
            raise InputError("denoising_start: latent consistency models take none; pass strength")
        if inputs.guidance_rescale:
            raise InputError("guidance_rescale: latent consistency models take none; leave it out")
        scheduler.set_timesteps(
            None if inputs.timesteps is not None else inputs.num_inference_steps,
            timesteps=inputs.timesteps,
            sigmas=inputs.sigmas,
            mu=inputs.mu,
            original_inference_steps=prompts.original_inference_steps,
            strength=getattr(task, "strength", 1.0),
        )
        return len(scheduler.timesteps)
