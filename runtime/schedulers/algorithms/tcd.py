"""TCD: sampling from trajectory consistency distillation, with a dial between deterministic and stochastic."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.prediction import epsilon_from, x0_from
from diffoundry.runtime.schedulers.bases.distilled import DistilledOptions, DistilledScheduler

__all__ = ["TCDResult", "TCDScheduler"]


class TCDResult(NamedTuple):
    """The result of a step of `TCDScheduler`.

    Attributes:
        prev_sample: the sample at the next, less noisy timestep.
        pred_noised_sample: the sample at the timestep s below it, before noise brings it up.
        pred_original_sample: the clean sample predicted at this step.
    """

    prev_sample: Sample
    pred_noised_sample: Sample
    pred_original_sample: Sample


class TCDScheduler(DistilledScheduler[DistilledOptions]):
    """Strategic stochastic sampling: denoise to s = floor((1 - eta) t'), then noise up to the next timestep t'.

        x_s = sqrt(a_s) x0 + sqrt(1 - a_s) epsilon
        x' = sqrt(a' / a_s) x_s + sqrt(1 - a' / a_s) z,        and x' = x_s in the last step or with eta = 0

    with a_s = alpha_bar at s, a' at t'.

    Zheng et al. 2024, Algorithm 4, https://arxiv.org/abs/2402.19159, where eta is gamma. diffusers: x_s =
    `pred_noised_sample`. It has options for clipping and thresholding and uses none of them; so it is here.
    """

    Options = DistilledOptions
    takes_eta = True

    def _distilled(self, original: int | None, strength: float) -> NDArray[np.int64]:
        """As the base class, and with a number given for one run every training step, as in diffusers."""
        if original is None:
            return super()._distilled(None, strength)
        return np.arange(int(self.options.num_train_timesteps * strength))

    def step(  # type: ignore[override]  # diffusers' own output
        self, model_output: Sample, timestep: int, sample: Sample, *, eta: float = 0.3, generator: Generator = None
    ) -> TCDResult:
        """Go from x_t to the next timestep.

        Args:
            model_output: float32, (B, C, H, W); its meaning is `prediction_type`.
            timestep: t, one of `timesteps`.
            sample: x_t, same shape.
            eta: from 0, deterministic, to 1, as stochastic as consistency sampling.
            generator: source of z; not drawn from in the last step.

        Raises:
            InputError: eta outside of [0, 1], no run is planned, it is over, or its first timestep is not in it.
        """
        if not 0.0 <= eta <= 1.0:
            raise InputError(f"TCDScheduler.step: eta is {eta}, expected from 0 to 1.")
        steps = self._require_run()
        i = self._index(timestep)
        following = int(self.timesteps[i + 1]) if i + 1 < len(self.timesteps) else 0
        # in float32, because which integer is below depends on it
        s = math.floor(np.float32(1.0 - eta) * np.float32(following))
        a, a_s = self._alpha_bar[int(timestep)], self._alpha_bar[s]
        a_next = self._alpha_bar[following] if following >= 0 else self._final_alpha_bar

        kind, scales = self.options.prediction_type, {"alpha": math.sqrt(a), "sigma": math.sqrt(1.0 - a)}
        x0 = x0_from(kind, model_output, sample, **scales)
        epsilon = epsilon_from(kind, model_output, sample, **scales)
        noised = math.sqrt(a_s) * x0 + math.sqrt(1.0 - a_s) * epsilon
        self._advance()
        if eta == 0.0 or i == steps - 1:
            return TCDResult(noised, noised, x0)
        ratio = a_next / a_s
        up = math.sqrt(max(0.0, 1.0 - ratio)) * noise_like(model_output, generator)
        return TCDResult(math.sqrt(ratio) * noised + up, noised, x0)
