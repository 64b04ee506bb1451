"""Multistep consistency sampling: predict the image in one call, noise it again to a lower level."""

import math
from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.integer_timesteps import custom_timesteps
from diffoundry.runtime.schedulers.arithmetic.thresholding import clip
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import TrainingOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["CMStochasticIterativeOptions", "CMStochasticIterativeScheduler"]


@dataclass(frozen=True, kw_only=True)
class CMStochasticIterativeOptions(TrainingOptions):
    """Options of `CMStochasticIterativeScheduler`, named as in diffusers."""

    num_train_timesteps: int = 40
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    s_noise: float = 1.0
    rho: float = 7.0
    clip_denoised: bool = True

    def check(self, owner: str) -> None:
        """Refuse a single training step, which has no place between sigma_max and sigma_min."""
        super().check(owner)
        if self.num_train_timesteps < 2:
            raise ConfigError(
                f"{owner}: option 'num_train_timesteps' is {self.num_train_timesteps}, expected at least 2."
            )


class CMStochasticIterativeScheduler(IndexedScheduler[CMStochasticIterativeOptions]):
    """x0 = c_skip(sigma) x + c_out(sigma) output;  x' = x0 + sqrt(sigma'^2 - sigma_min^2) S_noise z.

        c_skip = sigma_data^2 / ((sigma - sigma_min)^2 + sigma_data^2)
        c_out = sigma_data (sigma - sigma_min) / sqrt(sigma^2 + sigma_data^2)

    Song et al. 2023, Algorithm 1 and appendix C, https://arxiv.org/abs/2303.01469; the noise levels are Karras et al.
    2022's, equation 5. Custom timesteps are indices of the training levels; the model's timestep is 250 log sigma.
    diffusers: x0 = `denoised`, sigma' = `sigma_hat`.
    """

    Options = CMStochasticIterativeOptions
    custom_schedules = frozenset({"timesteps"})

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first sample: sigma_max."""
        return float(self.options.sigma_max)

    def scale_model_input(self, sample: Sample, timestep: float | None = None) -> Sample:
        """The sample divided by sqrt(sigma^2 + sigma_data^2); the first call of a run finds its place."""
        sigma = self._sigma[self._index(timestep)]
        return sample * (1.0 / math.hypot(sigma, self.options.sigma_data))

    def _training_schedule(self) -> Schedule:
        levels = self._levels(np.linspace(0, 1, self.options.num_train_timesteps))
        return Schedule(_timesteps_of(levels), levels, None)

    def _schedule(self, request: RunRequest) -> Schedule:
        trained, steps = self.options.num_train_timesteps, request.steps
        if request.timesteps is not None:
            places = custom_timesteps(type(self).__name__, request.timesteps, trained)
        else:
            if steps > trained:
                raise InputError(
                    f"{type(self).__name__}.set_timesteps: num_inference_steps is {steps}, expected at most "
                    f"num_train_timesteps = {trained}, the number of noise levels that the model knows."
                )
            places = (np.arange(steps) * (trained // steps))[::-1]
        levels = self._levels(places[::-1] / (trained - 1))
        sigmas = np.append(levels, self.options.sigma_min).astype(np.float32)
        return Schedule(_timesteps_of(levels), sigmas, steps)

    def _levels(self, ramp: FloatArray) -> FloatArray:
        """The noise level of places between 0, sigma_max, and 1, sigma_min; float64."""
        options = self.options
        low, high = options.sigma_min ** (1 / options.rho), options.sigma_max ** (1 / options.rho)
        levels: FloatArray = (high + ramp * (low - high)) ** options.rho
        return levels

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go from sigma to the next lower sigma'.

        Args:
            model_output: float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: source of z, drawn from at every step unless there is only one.

        Raises:
            InputError: an integer timestep, or the first one of a run that is not in the schedule.
        """
        self._refuse_integer(timestep)
        i = self._index(timestep)
        options, sigma = self.options, self._sigma[i]
        low, data = options.sigma_min, options.sigma_data
        c_skip = data**2 / ((sigma - low) ** 2 + data**2)
        c_out = (sigma - low) * data / math.hypot(sigma, data)
        x0 = c_out * model_output + c_skip * sample
        if options.clip_denoised:
            x0 = clip(x0, 1.0)
        self._advance()
        if len(self.timesteps) == 1:
            return StepResult(x0, x0)
        # the last step leads to sigma_min, which training has left in the image
        target = min(max(self._sigma[min(i + 1, len(self._sigma) - 1)], low), options.sigma_max)
        spread = options.s_noise * math.sqrt(target**2 - low**2)
        return StepResult(x0 + spread * noise_like(model_output, generator), x0)


def _timesteps_of(levels: FloatArray) -> FloatArray:
    """Timesteps of noise levels; diffusers: `sigma_to_t`."""
    timesteps: FloatArray = 1000 * 0.25 * np.log(levels + 1e-44)
    return timesteps
