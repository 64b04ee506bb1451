"""The base of the exponential integrators in lambda = log(alpha / sigma): DPM-Solver, DEIS, UniPC, SA-Solver."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Sample, per_image
from diffoundry.runtime.schedulers.arithmetic.betas import alphas_cumprod, options_betas, without_zero_snr
from diffoundry.runtime.schedulers.arithmetic.lambda_sigmas import flow_sigmas, variance_preserving
from diffoundry.runtime.schedulers.arithmetic.learned_variance import is_learned, mean_of
from diffoundry.runtime.schedulers.arithmetic.multistep import Node
from diffoundry.runtime.schedulers.arithmetic.prediction import epsilon_from, x0_from
from diffoundry.runtime.schedulers.arithmetic.sigmas import (
    placed_sigmas,
    sigma_to_timestep,
    training_sigmas,
)
from diffoundry.runtime.schedulers.arithmetic.thresholding import dynamic_threshold
from diffoundry.runtime.schedulers.base import Schedule
from diffoundry.runtime.schedulers.bases.indexed import IndexedScheduler
from diffoundry.runtime.schedulers.options import BetaOptions, SigmaOptions, SigmaSchedule
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["LambdaOptions", "LambdaScheduler", "refuse_flow_with"]


@dataclass(frozen=True, kw_only=True)
class LambdaOptions(BetaOptions, SigmaOptions):
    """Options that all these solvers have, named as in diffusers."""

    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float | None = 1.0
    use_flow_sigmas: bool = False
    flow_shift: float = 1.0


L = TypeVar("L", bound=LambdaOptions)


class LambdaScheduler(IndexedScheduler[L]):
    """x = alpha_t x0 + sigma_t epsilon, solved exactly in its linear part over lambda.

    With flow sigmas alpha_t = 1 - sigma, sigma_t = sigma; otherwise variance preserving.

    Lu et al. 2022, section 3.1, https://arxiv.org/abs/2206.00927. diffusers: `_sigma_to_alpha_sigma_t`, `lambda_t`.

    Attributes:
        betas: float32, (T,).
        alphas_cumprod: alpha_bar, float32, (T,).
    """

    def _prepare(self) -> None:
        self.betas = options_betas(self.options)
        self.alphas_cumprod = alphas_cumprod(self.betas)
        if getattr(self.options, "rescale_betas_zero_snr", False):
            self.alphas_cumprod = without_zero_snr(self.alphas_cumprod)
        self._training_sigmas: Float32Array = training_sigmas(self.alphas_cumprod)
        self._log_training_sigmas: Float32Array = np.log(self._training_sigmas)

    def _training_schedule(self) -> Schedule:
        timesteps = np.arange(self.options.num_train_timesteps, dtype=np.float32)[::-1].copy()
        return Schedule(timesteps, self._training_sigmas, None)

    def _usable_steps(self, lambda_min: float) -> int:
        """Number of training steps with lambda >= lambda_min (diffusers: `lambda_min_clipped`)."""
        alpha_bar = self.alphas_cumprod
        spread = float32.sqrt(np.float32(1) - alpha_bar)
        lambdas = float32.log(float32.sqrt(alpha_bar)) - float32.log(spread)
        return len(lambdas) - int(np.searchsorted(lambdas[::-1], np.float32(lambda_min)))

    def _levels(
        self, timesteps: NDArray[Any], steps: int, *, shift: float, round_karras: bool
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Timesteps and noise levels of a run by the rule that the options name, without the final level.

        Args:
            timesteps: from the spacing, used where no rule replaces them.
            steps: number of steps.
            shift: of the flow sigmas.
            round_karras: whether the timesteps of Karras sigmas are rounded.

        Returns:
            (steps,) timesteps, to be cast to int64, and (steps,) float64 levels.
        """
        rule, trained = self.options.sigma_schedule, self._training_sigmas
        if rule is not SigmaSchedule.TRAINED:
            low, high = self._carried_ends(trained[0].item(), trained[-1].item())
            levels = placed_sigmas(rule, low, high, steps)
            placed = sigma_to_timestep(levels, self._log_training_sigmas)
            return placed.round() if rule is SigmaSchedule.KARRAS and round_karras else placed, levels
        if self.options.use_flow_sigmas:
            train_steps = self.options.num_train_timesteps
            levels = flow_sigmas(shift, train_steps, steps)
            return levels * train_steps, levels
        return timesteps, np.interp(timesteps, np.arange(len(trained)), trained)

    def _ending_above_zero(self, placed: NDArray[Any], levels: NDArray[np.float64]) -> Schedule:
        """The schedule of `_levels` in the solvers that never reach zero: a rule's last level occurs twice."""
        ruled = self.options.use_flow_sigmas or self.options.sigma_schedule is not SigmaSchedule.TRAINED
        last = levels[-1] if ruled else self._training_sigmas[0]
        timesteps = placed.astype(np.int64)
        return Schedule(timesteps, np.append(levels, last).astype(np.float32), len(timesteps))

    def _flow_shift(self, request: RunRequest) -> float:
        """The shift of a run: exp(mu), or the option's without mu.

        Raises:
            InputError: mu without `use_dynamic_shifting`.
        """
        if request.mu is None:
            return self.options.flow_shift
        if not getattr(self.options, "use_dynamic_shifting", False):
            raise InputError(
                f"{type(self).__name__}.set_timesteps: got mu = {request.mu}, expected none unless the option "
                "'use_dynamic_shifting' is true."
            )
        return math.exp(request.mu)

    def _refuse_rules_with_timesteps(self, rules: Sequence[str]) -> None:
        """Refuse custom timesteps beside options that compute them.

        Args:
            rules: names of those options.

        Raises:
            InputError: naming the one that is true.
        """
        blocker = next((name for name in rules if getattr(self.options, name)), None)
        if blocker:
            self._refuse_timesteps(f"'{blocker}'")

    def _scales(self, sigma: float) -> tuple[float, float]:
        """(alpha_t, sigma_t) at a noise level."""
        return (1.0 - sigma, sigma) if self.options.use_flow_sigmas else variance_preserving(sigma)

    def _node(self, i: int) -> Node:
        """The noise level of index i, as the solvers take it."""
        return Node(*self._scales(self._sigma[i]))

    def _index_of_unknown(self, timestep: float) -> int:  # noqa: ARG002
        return len(self.timesteps) - 1

    def _x0(self, output: Sample, sample: Sample, sigma: float) -> Sample:
        """The model's clean sample, thresholded when the options say so."""
        x0 = x0_from(self.options.prediction_type, self._mean(output, sample), sample, **self._named_scales(sigma))
        return self._thresholded(x0)

    def _epsilon(self, output: Sample, sample: Sample, sigma: float) -> Sample:
        """The model's noise; with thresholding the one that leads to the thresholded clean sample."""
        scales = self._named_scales(sigma)
        epsilon = epsilon_from(self.options.prediction_type, self._mean(output, sample), sample, **scales)
        if self.options.thresholding:
            x0 = self._thresholded(x0_from("epsilon", epsilon, sample, **scales))
            epsilon = epsilon_from("sample", x0, sample, **scales)
        return epsilon

    def output_channels(self, channels: int) -> tuple[int, ...]:
        """Return the accepted numbers of output channels; the channels of a learned variance are ignored."""
        return (channels, 2 * channels) if self._learned_variance else (channels,)

    @property
    def _learned_variance(self) -> bool:
        return is_learned(getattr(self.options, "variance_type", None)) and self.options.prediction_type == "epsilon"

    def _mean(self, output: Sample, sample: Sample) -> Sample:
        return mean_of(output, sample) if self._learned_variance else output

    def _named_scales(self, sigma: float) -> dict[str, float]:
        if self.options.prediction_type == "flow_prediction":
            return {"alpha": 1.0 - sigma, "sigma": sigma}
        alpha_t, sigma_t = self._scales(sigma)
        return {"alpha": alpha_t, "sigma": sigma_t}

    def _thresholded(self, x0: Sample) -> Sample:
        if not self.options.thresholding:
            return x0
        ratio, limit = self.options.dynamic_thresholding_ratio, self.options.sample_max_value
        return dynamic_threshold(x0, ratio=ratio, max_value=limit)

    def add_noise(
        self, original_samples: Float32Array, noise: Float32Array, timesteps: Sequence[float] | NDArray[Any]
    ) -> Float32Array:
        """The sample at given timesteps: alpha_t x0 + sigma_t noise.

        Args:
            original_samples: x0, float32, (B, ...).
            noise: float32, same shape.
            timesteps: (B,) or (1,), members of `timesteps`.
        """
        scales = [self._scales(self._sigma[i]) for i in self._indices(timesteps)]
        alpha_t, sigma_t = (
            per_image(np.array(values, dtype=np.float32), noise.ndim) for values in zip(*scales, strict=True)
        )
        return alpha_t * original_samples + sigma_t * noise


def refuse_flow_with(options: LambdaOptions, owner: str, rules: Sequence[str]) -> None:
    """Refuse flow sigmas beside a rule whose sigmas exceed one: 1 - sigma is negative there, and diffusers gives NaN.

    Args:
        options: of the scheduler.
        owner: class name, for the message.
        rules: names of the options that exclude `use_flow_sigmas`.

    Raises:
        ConfigError: naming both.
    """
    clash = next((name for name in rules if getattr(options, name)), None)
    if options.use_flow_sigmas and clash:
        raise ConfigError(
            f"{owner}: options 'use_flow_sigmas' and '{clash}' are both true, expected one of them: the levels of "
            f"'{clash}' exceed one, where a flow has no signal left."
        )
