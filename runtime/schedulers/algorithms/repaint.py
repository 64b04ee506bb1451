"""RePaint: inpainting that adds new noise to the known part at every step, and goes back in time to blend it in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray, Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.prediction import x0_from
from diffoundry.runtime.schedulers.arithmetic.thresholding import clip
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.options import BetaOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["RePaintOptions", "RePaintScheduler"]


@dataclass(frozen=True, kw_only=True)
class RePaintOptions(BetaOptions):
    """Options of `RePaintScheduler`, named as in diffusers."""

    eta: float = 0.0
    clip_sample: bool = True

    BETA_SCHEDULES = (*BetaOptions.BETA_SCHEDULES, "sigmoid")


class RePaintScheduler(DiscreteScheduler[RePaintOptions]):
    """DDIM for the unknown part, the noised image for the known part, and resampling.

        unknown = sqrt(a') x0 + sqrt(1 - a' - s^2) epsilon + s z
        known = sqrt(a') image + sqrt(1 - a') z
        x_{t-1} = mask known + (1 - mask) unknown

    with a, a', s as in `ddim.py` and one noise z for both parts. `timesteps` go down, jump up by `jump_length` steps
    and down again `jump_n_sample` times; where they go up, `undo_step` takes the place of `step`:

        t_last = scheduler.timesteps[0] + 1
        for t in scheduler.timesteps:
            if t < t_last:
                sample = scheduler.step(model(sample, t), t, sample, image, mask, generator=g).prev_sample
            else:
                sample = scheduler.undo_step(sample, t_last, generator=g)
            t_last = t

    Lugmayr et al. 2022, Algorithm 1 and equation 8, https://arxiv.org/abs/2201.09865; Song et al. 2020, equation 12,
    https://arxiv.org/abs/2010.02502. diffusers: a = `alpha_prod_t`, a' = `alpha_prod_t_prev`, s = `std_dev_t`.
    """

    Options = RePaintOptions
    needed_loop = "the loop of RePaintPipeline, which blends a known image in and goes back in time between the steps"

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: object = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        jump_length: int = 10,
        jump_n_sample: int = 10,
    ) -> None:
        """Plan a run and forget the one before.

        Args:
            num_inference_steps: number of steps without the jumps, at most the number of training steps.
            device: "cpu" or None, for code that was written for diffusers.
            timesteps: not taken.
            sigmas: not taken.
            mu: not taken.
            jump_length: how many steps a jump goes back in time (the paper's j).
            jump_n_sample: how often each stretch is gone through (the paper's r).

        Raises:
            InputError: as for every scheduler, or a jump_length below 1.
        """
        request = self._request(num_inference_steps, timesteps, sigmas, mu, device)
        if jump_length < 1:
            raise InputError(f"RePaintScheduler.set_timesteps: jump_length is {jump_length}, expected at least 1.")
        schedule = self._schedule(request)
        assert schedule.num_inference_steps is not None
        order = _with_jumps(schedule.num_inference_steps, jump_length, jump_n_sample)
        stride = self.options.num_train_timesteps // schedule.num_inference_steps
        self._adopt(schedule._replace(timesteps=order * stride))

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = min(self.options.num_train_timesteps, request.steps)
        return Schedule(np.arange(steps)[::-1], None, steps)

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        original_image: Sample,
        mask: Sample,
        *,
        generator: Generator = None,
    ) -> StepResult:
        """Go from x_t to x_{t-1}.

        Args:
            model_output: epsilon, float32, (B, C, H, W).
            timestep: t, one of `timesteps`.
            sample: x_t, same shape.
            original_image: the image whose known part is kept, same shape.
            mask: 1 where the image is known, 0 where it is generated, broadcast to that shape.
            generator: source of z.

        Raises:
            InputError: no run is planned.
        """
        options, t = self.options, int(timestep)
        previous = t - options.num_train_timesteps // self._require_run()
        a = self._alpha_bar[t]
        a_next = self._alpha_bar[previous] if previous >= 0 else 1.0
        x0 = x0_from("epsilon", model_output, sample, alpha=a**0.5, sigma=(1.0 - a) ** 0.5)
        if options.clip_sample:
            x0 = clip(x0, 1.0)

        z = noise_like(model_output, generator)
        s = options.eta * ((1.0 - a_next) / (1.0 - a) * (1.0 - a / a_next)) ** 0.5
        signal = a_next**0.5
        unknown = signal * x0 + max(0.0, 1.0 - a_next - s * s) ** 0.5 * model_output
        if t > 0 and s > 0:
            unknown = unknown + s * z
        known = signal * original_image + (1.0 - a_next) ** 0.5 * z
        return StepResult(unknown + mask * (known - unknown), x0)

    def undo_step(self, sample: FloatArray, timestep: int, *, generator: Generator = None) -> FloatArray:
        """Go back in time from timestep t to the one before it in the run, one training step after the other.

        x <- sqrt(1 - beta) x + sqrt(beta) z for T // N betas from beta_t on (Lugmayr et al. 2022, equation 1).

        Args:
            sample: x_t, float32, (B, C, H, W).
            timestep: t.
            generator: source of z.

        Returns:
            the noisier sample, same shape.

        Raises:
            InputError: no run is planned.
        """
        t = int(timestep)
        for beta in self.betas[t : t + self.options.num_train_timesteps // self._require_run()].tolist():
            sample = (1.0 - beta) ** 0.5 * sample + beta**0.5 * noise_like(sample, generator)
        return sample


def _with_jumps(steps: int, length: int, samples: int) -> NDArray[np.int64]:
    """Indices steps - 1 .. 0, and at every multiple of `length` back up by it, `samples` - 1 times."""
    left = dict.fromkeys(range(0, steps - length, length), samples - 1)
    order, i = [], steps
    while i >= 1:
        i -= 1
        order.append(i)
        if left.get(i, 0) > 0:
            left[i] -= 1
            order += range(i + 1, i + length + 1)
            i += length
    return np.array(order)
