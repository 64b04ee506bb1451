"""DDIM: the deterministic sampler of a diffusion model, with `eta` as the way back to DDPM's noise."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.prediction import epsilon_from, x0_from
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing, spaced_timesteps
from diffoundry.runtime.schedulers.arithmetic.thresholding import limit_x0
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.discrete import DiscreteScheduler
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import BetaOptions
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["DDIMOptions", "DDIMScheduler"]


@dataclass(frozen=True, kw_only=True)
class DDIMOptions(BetaOptions):
    """Options of `DDIMScheduler`, named as in diffusers."""

    clip_sample: bool = True
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    clip_sample_range: float = 1.0
    sample_max_value: float | None = 1.0
    timestep_spacing: Spacing = "leading"
    rescale_betas_zero_snr: bool = False


class DDIMScheduler(DiscreteScheduler[DDIMOptions]):
    """Denoising diffusion implicit models.

        x_{t-1} = sqrt(a') x0 + sqrt(1 - a' - s^2) epsilon + s z
        s = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a')

    with a = alpha_bar of this timestep, a' of the next, z standard normal noise.

    Song et al. 2020, equations 12 and 16, https://arxiv.org/abs/2010.02502.
    diffusers: a = `alpha_prod_t`, a' = `alpha_prod_t_prev`, s = `std_dev_t`.
    """

    Options = DDIMOptions
    takes_eta = True
    compatible_names = KARRAS_COMPATIBLES

    def _prepare(self) -> None:
        super()._prepare()
        # a' of the last step, which has no timestep before it
        self._final_alpha_bar = 1.0 if self.options.set_alpha_to_one else self._alpha_bar[0]

    def _schedule(self, request: RunRequest) -> Schedule:
        steps = request.steps
        self._check_steps(steps)
        timesteps = spaced_timesteps(
            self.options.timestep_spacing,
            steps=steps,
            train_steps=self.options.num_train_timesteps,
            offset=self.options.steps_offset,
        )
        return Schedule(timesteps.round().astype(np.int64), None, steps)

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        *,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generator = None,
        variance_noise: Sample | None = None,
    ) -> StepResult:
        """Go from x_t to x_{t-1}.

        Args:
            model_output: float32, (B, C, H, W); its meaning is `prediction_type`.
            timestep: t, one of `timesteps`.
            sample: x_t, same shape.
            eta: 0 is deterministic, 1 is as noisy as DDPM.
            use_clipped_model_output: take epsilon from the clipped x0 again (Glide).
            generator: source of z when eta > 0.
            variance_noise: z itself, instead of a generator.

        Raises:
            InputError: no run is planned, or both generator and variance_noise are passed.
        """
        t = int(timestep)
        previous = t - self.options.num_train_timesteps // self._require_run()
        a = self._alpha_bar[t]
        a_next = self._alpha_bar[previous] if previous >= 0 else self._final_alpha_bar
        alpha, sigma = a**0.5, (1.0 - a) ** 0.5

        kind = self.options.prediction_type
        x0 = x0_from(kind, model_output, sample, alpha=alpha, sigma=sigma)
        epsilon = epsilon_from(kind, model_output, sample, alpha=alpha, sigma=sigma)
        x0 = limit_x0(x0, self.options)
        if use_clipped_model_output:
            epsilon = epsilon_from("sample", x0, sample, alpha=alpha, sigma=sigma)

        s = eta * ((1.0 - a_next) / (1.0 - a) * (1.0 - a / a_next)) ** 0.5
        # 1 - a' and s^2 are equal where eta = 1 and a = 0: keep rounding from making the root imaginary
        direction = max(0.0, 1.0 - a_next - s * s) ** 0.5
        following = a_next**0.5 * x0 + direction * epsilon
        if eta > 0:
            following = following + s * self._noise(model_output, generator, variance_noise)
        return StepResult(following, x0)

    def _noise(self, like: Sample, generator: Generator, given: Sample | None) -> Sample:
        if given is None:
            return noise_like(like, generator)
        if generator is not None:
            raise InputError(
                f"{type(self).__name__}.step: got both generator and variance_noise, expected one of them."
            )
        return given
