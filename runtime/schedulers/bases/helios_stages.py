"""The base of Helios's schedulers: a flow whose levels are cut into stages, one for each resolution of the pyramid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.base import Schedule
from diffoundry.runtime.schedulers.bases.flow import StraightPathScheduler, shifted
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["HeliosStageOptions", "HeliosStageScheduler"]

_LAST_TIMESTEP = 999  # of every stage, whatever the number of training steps
_FIRST_SIGMA = 0.999


@dataclass(frozen=True, kw_only=True)
class HeliosStageOptions(TrainingOptions):
    """Options that both Helios schedulers have, named as in diffusers."""

    shift: float = 1.0
    stages: int = 3
    stage_range: Sequence[float] = field(default_factory=lambda: [0, 1 / 3, 2 / 3, 1])
    gamma: float = 1 / 3
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"

    def check(self, owner: str) -> None:
        """Refuse stages without ends, and two shifts at once."""
        super().check(owner)
        if self.stages < 1:
            raise ConfigError(f"{owner}: option 'stages' is {self.stages}, expected at least 1.")
        if len(self.stage_range) <= self.stages or max(self.stage_range[: self.stages]) >= 1:
            raise ConfigError(
                f"{owner}: option 'stage_range' is {list(self.stage_range)}, expected the {self.stages + 1} ends of "
                f"{self.stages} stages, each of which starts below 1."
            )
        if self.gamma <= 0:
            raise ConfigError(f"{owner}: option 'gamma' is {self.gamma}, expected more than 0.")
        if self.use_dynamic_shifting and self.shift != 1.0:
            raise ConfigError(
                f"{owner}: option 'shift' is {self.shift} with 'use_dynamic_shifting', expected 1: only one of them "
                "can shift the levels."
            )


class Stage(NamedTuple):
    """One stage.

    Attributes:
        timesteps: the first and the last before the next stage.
        sigmas: the same of its own levels.
        trained_start: sigma where it starts in the whole flow.
        start: the same after the noise of the change of resolution.
        end: sigma where it ends in the whole flow.
    """

    timesteps: tuple[float, float]
    sigmas: tuple[float, float]
    trained_start: float
    start: float
    end: float


H = TypeVar("H", bound=HeliosStageOptions)


class HeliosStageScheduler(StraightPathScheduler[H]):
    """A flow over T training steps, in one piece (`stages` = 1) or cut at `stage_range`.

    Enlarging an image correlates its noise; new noise decorrelates it and takes the signal's coefficient from 1 - s
    to (1 - s) / (sqrt(1 + 1 / gamma) s + 1 - s): that is where a later stage starts. Every stage has the model's
    timesteps in proportion to its length, and levels of its own from 0.999 to 0.

    Yuan et al. 2026 (Helios), https://arxiv.org/abs/2603.04379; Jin et al. 2024 (Pyramidal Flow Matching), renoising
    rule, https://arxiv.org/abs/2410.05954. diffusers: s = `ori_start_sigmas`, the new start = `start_sigmas`.

    Attributes:
        ori_start_sigmas: where each stage starts as trained.
        start_sigmas: where it starts after the noise of the change of resolution.
        end_sigmas: where it ends.
    """

    custom_schedules = frozenset({"sigmas", "mu"})
    combines_schedules = True
    _plans_end = False
    """True where a level is planned for the end of the run and then left out, so that the last step skips it."""

    def _prepare(self) -> None:
        training = self._training_schedule()
        assert training.sigmas is not None
        self._stages = _cut(training.timesteps, training.sigmas, self.options)
        self.ori_start_sigmas = [stage.trained_start for stage in self._stages]
        self.start_sigmas = [stage.start for stage in self._stages]
        self.end_sigmas = [stage.end for stage in self._stages]

    def check_loop(
        self,
        *,
        channels: int | None = None,
        output_channels: int | None = None,
        eta: float = 0.0,
        mu: float | None = None,
    ) -> None:
        """Refuse a loop that this scheduler cannot finish: one of several stages, besides what the base refuses.

        Args:
            channels: as in the base.
            output_channels: as in the base.
            eta: as in the base.
            mu: as in the base.

        Raises:
            InputError: the scheduler needs another loop or model, or ignores an argument.
        """
        if self.options.stages > 1:
            raise self._refusal(
                f"the loop of a Helios pipeline, which runs {self.options.stages} stages of growing resolution"
            )
        super().check_loop(channels=channels, output_channels=output_channels, eta=eta, mu=mu)

    def _training_schedule(self) -> Schedule:
        trained = self.options.num_train_timesteps
        even = 1.0 - np.linspace(1, 1 / trained, trained + 1)
        sigmas = shifted(even, self.options.shift)[::-1][:-1].copy()
        return Schedule(sigmas * trained, sigmas, None)

    def set_timesteps(  # type: ignore[override]  # the stage comes first, as in diffusers
        self,
        num_inference_steps: int | None = None,
        stage_index: int | None = None,
        device: object = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        is_amplify_first_chunk: bool = False,
    ) -> None:
        """Plan the run of one stage and forget the one before.

        Args:
            num_inference_steps: number of steps.
            stage_index: which stage; None where there is but one.
            device: "cpu" or None, for code that was written for diffusers.
            timesteps: not taken.
            sigmas: the noise levels themselves, descending, without the final zero, where there is but one stage.
            mu: exponent or factor of the shift, for `use_dynamic_shifting`.
            is_amplify_first_chunk: twice as many steps, for the first part of a video; `HeliosDMDScheduler` only.

        Raises:
            InputError: as for every scheduler, or an argument without meaning for the stages.
        """
        request = self._request(num_inference_steps, timesteps, sigmas, mu, device)
        self._adopt(self._planned(request, stage_index, amplified=is_amplify_first_chunk))

    def _schedule(self, request: RunRequest) -> Schedule:
        return self._planned(request, None, amplified=False)

    def _planned(self, request: RunRequest, stage_index: int | None, *, amplified: bool) -> Schedule:
        self._check(request, stage_index)
        options, trained = self.options, self.options.num_train_timesteps
        steps = request.num_inference_steps or 0
        if self._plans_end:
            steps = (2 * steps if amplified else steps) + 1
        stage = None if stage_index is None or options.stages == 1 else self._stages[stage_index]
        timesteps: NDArray[Any]
        if stage is None:
            sigmas = self._whole(request, steps)
            timesteps = sigmas * trained
        else:
            sigmas = np.linspace(*stage.sigmas, steps)
            timesteps = np.linspace(*stage.timesteps, steps)
        if self._plans_end:
            sigmas, timesteps = sigmas[:-1], timesteps[:-1]
        if options.use_dynamic_shifting:
            assert request.mu is not None
            sigmas = _shifted_as_torch(sigmas, self._weight(request.mu))
            low, high = (0.0, float(trained)) if stage is None else sorted(stage.timesteps)
            timesteps = low + sigmas * (high - low)
        return Schedule(timesteps, np.append(sigmas, sigmas.dtype.type(0)), len(timesteps))

    def _whole(self, request: RunRequest, steps: int) -> NDArray[Any]:
        """The levels of a flow in one piece."""
        options = self.options
        if request.sigmas is not None:
            given = np.asarray(request.sigmas)
            return given if given.dtype == np.float32 else given.astype(np.float64)
        sigmas = np.linspace(1, 1 / options.num_train_timesteps, steps + 1)[:-1].astype(np.float32)
        if options.shift == 1.0:
            return sigmas
        weight = self._weight(options.shift)
        result: NDArray[Any] = weight / (weight + (1 / sigmas - 1))
        return result

    def _weight(self, shift: float) -> float:
        return math.exp(shift) if self.options.time_shift_type == "exponential" else shift

    def _check(self, request: RunRequest, stage_index: int | None) -> None:
        owner, stages = f"{type(self).__name__}.set_timesteps", self.options.stages
        if self.options.use_dynamic_shifting:
            request.require_mu(type(self).__name__)
        if stages > 1 and request.sigmas is not None:
            raise InputError(
                f"{owner}: got sigmas, but the option 'stages' = {stages} places them. Pass num_inference_steps."
            )
        if stages > 1 and (stage_index is None or not 0 <= stage_index < stages):
            raise InputError(
                f"{owner}: stage_index is {stage_index}, expected 0 to {stages - 1}: the option 'stages' is {stages}."
            )


def _cut(timesteps: NDArray[np.float64], sigmas: NDArray[np.float64], options: HeliosStageOptions) -> list[Stage]:
    """The stages of a flow, from its training timesteps and sigmas, each (T,) and descending."""
    trained = len(sigmas)
    levels = []
    for i in range(options.stages):
        start = float(sigmas[max(int(options.stage_range[i] * trained), 0)])
        below = min(int(options.stage_range[i + 1] * trained), trained)
        end = float(sigmas[below]) if below < trained else 0.0
        signal = 1.0 - start
        renoised = signal / (math.sqrt(1 + 1 / options.gamma) * start + signal)
        levels.append((start, 1.0 - renoised if i > 0 else start, end))

    lengths = [start - end for _, start, end in levels]
    own = np.linspace(_FIRST_SIGMA, 0, trained + 1)
    stages = []
    for i, (trained_start, start, end) in enumerate(levels):
        place = sum(lengths[:i]) / sum(lengths) if i > 0 else 0.0
        next_place = sum(lengths[: i + 1]) / sum(lengths) if i + 1 < len(levels) else math.nextafter(1.0, 0.0)
        own_timesteps = np.linspace(
            min(timesteps[int(place * trained)], _LAST_TIMESTEP),
            timesteps[min(int(next_place * trained), trained - 1)],
            trained + 1,
        )
        stages.append(
            Stage(
                timesteps=(float(own_timesteps[0]), float(own_timesteps[-2])),
                sigmas=(float(own[0]), float(own[-2])),
                trained_start=trained_start,
                start=start,
                end=end,
            )
        )
    return stages


def _shifted_as_torch(sigmas: NDArray[Any], weight: float) -> NDArray[Any]:
    """The shift w / (w + 1 / sigma - 1), divided as torch divides a number by a tensor: the reciprocal multiplied."""
    result: NDArray[Any] = 1 / (weight + (1 / sigmas - 1)) * weight
    return result
