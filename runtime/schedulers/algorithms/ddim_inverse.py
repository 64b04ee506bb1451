"""DDIM backwards: from a clean sample to the noise that DDIM would make it from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.prediction import epsilon_from, x0_from
from diffoundry.runtime.schedulers.arithmetic.spacing import spaced_timesteps
from diffoundry.runtime.schedulers.arithmetic.thresholding import clip
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.options import BetaOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DDIMInverseOptions", "DDIMInverseScheduler"]


@dataclass(frozen=True, kw_only=True)
class DDIMInverseOptions(BetaOptions):
    """Options of `DDIMInverseScheduler`, named as in diffusers."""

    clip_sample: bool = True
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    clip_sample_range: float = 1.0
    timestep_spacing: Literal["leading", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False


class DDIMInverseScheduler(DiscreteScheduler[DDIMInverseOptions]):
    """DDIM's ordinary differential equation, integrated towards the noise.

        x_t = sqrt(a') x0 + sqrt(1 - a') epsilon

    with x0 and epsilon predicted from the sample at t - T // N, whose alpha_bar is a, and a' = alpha_bar of the
    timestep t of the model's input: the model predicts at the level that the step goes to. Timesteps ascend.

    Song et al. 2020, equation 13, read backwards (section 4.3), https://arxiv.org/abs/2010.02502.
    diffusers: a = `alpha_prod_t`, a' = `alpha_prod_t_prev`, t = `prev_timestep`.
    """

    Options = DDIMInverseOptions

    def _initialise(self, given: Mapping[str, Any], hidden: Mapping[str, Any]) -> None:
        # old configs say it by another name, which diffusers still obeys
        older = hidden.get("set_alpha_to_zero")
        super()._initialise(given if older is None else {**given, "set_alpha_to_one": older}, hidden)

    def _prepare(self) -> None:
        super()._prepare()
        # a of the first step, which has no timestep before it
        self._initial_alpha_bar = 1.0 if self.options.set_alpha_to_one else self._alpha_bar[0]

    def _training_schedule(self) -> Schedule:
        return Schedule(np.arange(self.options.num_train_timesteps), None, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        self._check_steps(steps)
        timesteps = spaced_timesteps(
            self.options.timestep_spacing,
            steps=steps,
            train_steps=self.options.num_train_timesteps,
            offset=self.options.steps_offset,
        )
        return Schedule(timesteps[::-1].astype(np.int64), None, steps)

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go to x_t, t being the timestep.

        Args:
            model_output: float32, (B, C, H, W); its meaning is `prediction_type`.
            timestep: t, one of `timesteps`.
            sample: the sample before, same shape.
            generator: not used.

        Raises:
            InputError: no run is planned.
        """
        options, t = self.options, int(timestep)
        before = t - options.num_train_timesteps // self._require_run()
        a = self._alpha_bar[before] if before >= 0 else self._initial_alpha_bar
        a_next = self._alpha_bar[t]
        alpha, sigma = a**0.5, (1.0 - a) ** 0.5

        kind = options.prediction_type
        x0 = x0_from(kind, model_output, sample, alpha=alpha, sigma=sigma)
        epsilon = epsilon_from(kind, model_output, sample, alpha=alpha, sigma=sigma)
        if options.clip_sample:
            x0 = clip(x0, options.clip_sample_range)
        return StepResult(a_next**0.5 * x0 + (1.0 - a_next) ** 0.5 * epsilon, x0)
