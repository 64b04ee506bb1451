"""The base of LCM and TCD: runs over a subset of the timesteps that the student was distilled on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.integer_timesteps import custom_timesteps
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing
from diffoundry.runtime.schedulers.base import Schedule
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import BetaOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DistilledOptions", "DistilledScheduler"]


@dataclass(frozen=True, kw_only=True)
class DistilledOptions(BetaOptions):
    """Options that both schedulers have, named as in diffusers.

    Neither uses `steps_offset`, `timestep_spacing` and, where timesteps are not negative, `set_alpha_to_one`.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    original_inference_steps: int = 50
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float | None = 1.0
    timestep_spacing: Spacing = "leading"
    timestep_scaling: float = 10.0
    rescale_betas_zero_snr: bool = False


D = TypeVar("D", bound=DistilledOptions)


class DistilledScheduler(DiscreteScheduler[D], IndexedScheduler[D]):
    """Of the `original_inference_steps` timesteps of the distillation, a run takes evenly spaced ones from the top.

    Luo et al. 2023, section 4.3 (skipping-step), https://arxiv.org/abs/2310.04378.
    """

    custom_schedules = frozenset({"timesteps"})

    def _prepare(self) -> None:
        super()._prepare()
        self._final_alpha_bar = 1.0 if self.options.set_alpha_to_one else self._alpha_bar[0]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        original_inference_steps: int | None = None,
        strength: float = 1.0,
    ) -> None:
        """Plan a run and forget the one before.

        Args:
            num_inference_steps: number of steps.
            device: "cpu" or None, for code that was written for diffusers.
            timesteps: the timesteps themselves, descending.
            sigmas: not taken.
            mu: not taken.
            original_inference_steps: number of timesteps of the distillation, instead of the option.
            strength: the part of the schedule to run, from below, for image to image.

        Raises:
            InputError: numbers of steps that do not fit each other, or custom timesteps that do not descend.
        """
        request = self._request(num_inference_steps, timesteps, sigmas, mu, device)
        self._adopt(self._plan(request, original_inference_steps, strength))

    def _plan(self, request: RunRequest, original: int | None, strength: float) -> Schedule:
        owner, trained = type(self).__name__, self.options.num_train_timesteps
        distilled = self._distilled(original, strength)
        if request.timesteps is not None:
            custom = custom_timesteps(owner, request.timesteps, trained)
            kept = min(int(len(custom) * strength), len(custom))
            return Schedule(custom[len(custom) - kept :], None, len(custom))

        steps = request.steps
        self._check_steps(steps)
        most = min(len(distilled), original if original is not None else self.options.original_inference_steps)
        if steps > most:
            raise InputError(
                f"{owner}.set_timesteps: num_inference_steps is {steps}, expected at most {most}: the distillation's "
                f"original_inference_steps times strength = {strength}."
            )
        taken = np.floor(np.linspace(0, len(distilled), num=steps, endpoint=False)).astype(np.int64)
        return Schedule(distilled[::-1][taken], None, steps)

    def _distilled(self, original: int | None, strength: float) -> NDArray[np.int64]:
        """The timesteps of the distillation, ascending: every T // original-th.

        Args:
            original: how many, instead of the option.
            strength: the part of them to keep, from below.

        Raises:
            InputError: more than training steps, or none.
        """
        count = original if original is not None else self.options.original_inference_steps
        trained = self.options.num_train_timesteps
        if not 1 <= count <= trained:
            raise InputError(
                f"{type(self).__name__}.set_timesteps: original_inference_steps is {count}, expected from 1 to "
                f"num_train_timesteps = {trained}."
            )
        return np.arange(1, int(count * strength) + 1) * (trained // count) - 1
