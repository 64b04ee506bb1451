"""The base of flow matching schedulers: x = (1 - sigma) x0 + sigma noise, and the shifts of sigma's way to zero."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, FloatArray, per_image
from diffoundry.runtime.schedulers.arithmetic.sigmas import placed_sigmas
from diffoundry.runtime.schedulers.base import Schedule
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import SchedulerOptions, SigmaOptions, SigmaSchedule, TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = [
    "FlowOptions",
    "FlowScheduler",
    "ShiftedFlowOptions",
    "ShiftedFlowScheduler",
    "StraightPathScheduler",
    "check_lengths",
    "shifted",
]


C = TypeVar("C", bound=SchedulerOptions)


class StraightPathScheduler(IndexedScheduler[C]):
    """x = (1 - sigma) x0 + sigma noise; the model predicts the velocity v = noise - x0.

    Lipman et al. 2022, https://arxiv.org/abs/2210.02747.
    """

    made_for = "flow-matching models such as Stable Diffusion 3"

    sigmas: Float32Array

    def scale_noise(
        self, sample: Float32Array, timestep: Sequence[float] | NDArray[Any], noise: Float32Array
    ) -> Float32Array:
        """The sample at given timesteps: sigma noise + (1 - sigma) x0.

        Args:
            sample: x0, float32, (B, ...).
            timestep: (B,) or (1,), members of `timesteps`.
            noise: float32, same shape as the sample.
        """
        sigma = per_image(self.sigmas[self._indices(timestep)], sample.ndim)
        return sigma * noise + (np.float32(1) - sigma) * sample

    def add_noise(
        self, original_samples: Float32Array, noise: Float32Array, timesteps: Sequence[float] | NDArray[Any]
    ) -> Float32Array:
        """`scale_noise` by the name and in the order of arguments that the other schedulers have."""
        return self.scale_noise(original_samples, timesteps, noise)


@dataclass(frozen=True, kw_only=True)
class FlowOptions(TrainingOptions):
    """Options that all these schedulers have, named as in diffusers."""

    shift: float = 1.0


F = TypeVar("F", bound=FlowOptions)


class FlowScheduler(StraightPathScheduler[F]):
    """Straight paths over T = `num_train_timesteps` training steps; timesteps are T sigma."""

    _shifts_training_sigmas = True

    def _prepare(self) -> None:
        trained = self.options.num_train_timesteps
        even = np.arange(trained, 0, -1, dtype=np.float32) / trained
        self._training_sigmas = shifted(even, self.options.shift) if self._shifts_training_sigmas else even

    def _training_schedule(self) -> Schedule:
        return Schedule(self._training_sigmas * self.options.num_train_timesteps, self._training_sigmas, None)

    def _even_sigmas(self, steps: int) -> NDArray[np.float64]:
        """Evenly spaced between the ends of the training sigmas, float64, (steps,), descending."""
        trained = self.options.num_train_timesteps
        first, last = self._training_sigmas[[0, -1]].tolist()
        return np.linspace(first * trained, last * trained, steps) / trained


@dataclass(frozen=True, kw_only=True)
class ShiftedFlowOptions(FlowOptions, SigmaOptions):
    """Options of the schedules that can depend on the resolution, named as in diffusers.

    `base_shift`, `max_shift`, `base_image_seq_len` and `max_image_seq_len` are for pipelines, which compute mu of them.
    """

    use_dynamic_shifting: bool = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    invert_sigmas: bool = False
    shift_terminal: float | None = None
    time_shift_type: Literal["exponential", "linear"] = "exponential"

    def check(self, owner: str) -> None:
        """Refuse a terminal that no stretching reaches."""
        super().check(owner)
        if self.shift_terminal is not None and self.shift_terminal >= 1.0:
            raise ConfigError(f"{owner}: option 'shift_terminal' is {self.shift_terminal}, expected less than 1.")


S = TypeVar("S", bound=ShiftedFlowOptions)


class ShiftedFlowScheduler(FlowScheduler[S]):
    """A flow schedule with a static shift, or one by mu, which pipelines compute from the number of image tokens.

        static:        s sigma / (1 + (s - 1) sigma)       s = `shift`
        exponential:   e^mu / (e^mu + 1 / sigma - 1)       `use_dynamic_shifting`, the same with s = e^mu
        linear:        mu / (mu + 1 / sigma - 1)

    Esser et al. 2024, equation 23, https://arxiv.org/abs/2403.03206. The shift is applied to sigmas that already lie
    between the ends of the statically shifted training sigmas, and to custom sigmas and timesteps too, as in diffusers.
    Then `shift_terminal` stretches the sigmas so that the last one is it (LTX-Video), `use_*_sigmas` replaces those
    between the ends, and `invert_sigmas` turns them around (Mochi).
    """

    custom_schedules = frozenset({"timesteps", "sigmas", "mu"})
    combines_schedules = True

    def _prepare(self) -> None:
        self._shifts_training_sigmas = not self.options.use_dynamic_shifting
        super()._prepare()
        self._shift = self.options.shift

    @property
    def shift(self) -> float:
        """The static shift of the runs to come."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Change the static shift for the runs to come; the ends of the training sigmas stay."""
        self._shift = shift

    def _schedule(self, request: RunRequest) -> Schedule:
        options, trained = self.options, self.options.num_train_timesteps
        check_lengths(type(self).__name__, request)
        given = None if request.timesteps is None else np.asarray(request.timesteps, dtype=np.float32)
        start: FloatArray
        if request.sigmas is not None:
            start = np.asarray(request.sigmas, dtype=np.float32)
        elif given is not None:
            start = given / trained
        else:
            start = self._even_sigmas(request.steps)

        sigmas = self._placed(self._stretched(self._shifted(start, request))).astype(np.float32)
        timesteps = given if given is not None else sigmas * trained
        if options.invert_sigmas:
            sigmas = 1.0 - sigmas
            timesteps = sigmas * trained
        end = np.float32(1.0 if options.invert_sigmas else 0.0)
        return Schedule(timesteps, np.append(sigmas, end), len(sigmas))

    def _shifted(self, sigmas: FloatArray, request: RunRequest) -> FloatArray:
        """The static or the dynamic shift.

        Raises:
            InputError: `use_dynamic_shifting` without mu.
        """
        if not self.options.use_dynamic_shifting:
            return shifted(sigmas, self._shift)
        mu = request.require_mu(type(self).__name__)
        s = math.exp(mu) if self.options.time_shift_type == "exponential" else mu
        with np.errstate(divide="ignore"):
            result: FloatArray = s / (s + (1 / sigmas - 1))
        return result

    def _stretched(self, sigmas: FloatArray) -> FloatArray:
        """The sigmas stretched so that they start where they do and end at `shift_terminal`.

        Raises:
            InputError: they end at one, where nothing can be stretched.
        """
        terminal = self.options.shift_terminal
        if not terminal:
            return sigmas
        if sigmas[-1] == 1.0:
            raise InputError(
                f"{type(self).__name__}.set_timesteps: the last of {len(sigmas)} sigmas is 1, expected less: the "
                f"option 'shift_terminal' = {terminal} stretches the way from the first to the last. Take more steps."
            )
        result: FloatArray = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal))
        return result

    def _placed(self, sigmas: FloatArray) -> FloatArray:
        """The sigmas between the ends placed by `use_*_sigmas`.

        Raises:
            InputError: exponential spacing down to zero.
        """
        rule = self.options.sigma_schedule
        if rule is SigmaSchedule.TRAINED:
            return sigmas
        low, high = self._carried_ends(sigmas[-1].item(), sigmas[0].item())
        if rule is SigmaSchedule.EXPONENTIAL and low <= 0.0:
            raise InputError(
                f"{type(self).__name__}.set_timesteps: the last sigma is {low}, expected more than zero: the option "
                "'use_exponential_sigmas' takes its logarithm."
            )
        return placed_sigmas(rule, low, high, len(sigmas))


def shifted(sigmas: FloatArray, shift: float) -> FloatArray:
    """The static shift s sigma / (1 + (s - 1) sigma), in the dtype of the sigmas."""
    result: FloatArray = shift * sigmas / (1 + (shift - 1) * sigmas)
    return result


def check_lengths(owner: str, request: RunRequest) -> None:
    """Refuse timesteps, sigmas and num_inference_steps that do not count the same.

    Raises:
        InputError: naming the lengths.
    """
    lists = {"timesteps": request.timesteps, "sigmas": request.sigmas}
    counts = {name: len(values) for name, values in lists.items() if values is not None}
    if request.num_inference_steps is not None:
        counts["num_inference_steps"] = request.num_inference_steps
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise InputError(f"{owner}.set_timesteps: got different numbers of steps ({lengths}), expected the same.")
