"""The base of schedulers that look alpha_bar up by integer timestep: DDPM, DDIM, PNDM and what grew from them."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.arithmetic import float32
from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, per_image
from diffoundry.runtime.schedulers.arithmetic.betas import alphas_cumprod, options_betas
from diffoundry.runtime.schedulers.base import Schedule, Scheduler
from diffoundry.runtime.schedulers.options import BetaOptions, TrainingOptions

__all__ = ["DiscreteScheduler"]

B = TypeVar("B", bound=TrainingOptions)

Timesteps = Sequence[float] | NDArray[Any]


class DiscreteScheduler(Scheduler[B]):
    """A variance-preserving scheduler over the training steps 0 .. T - 1.

        x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon

    Ho et al. 2020, equation 4, https://arxiv.org/abs/2006.11239.

    Attributes:
        betas: float32, (T,).
        alphas_cumprod: alpha_bar, float32, (T,).
    """

    def _prepare(self) -> None:
        self.betas = self._make_betas()
        self.alphas_cumprod = alphas_cumprod(self.betas)
        self._alpha_bar: list[float] = self.alphas_cumprod.tolist()

    def _make_betas(self) -> Float32Array:
        assert isinstance(self.options, BetaOptions), "a scheduler with other options makes its own betas"
        return options_betas(self.options)

    def _training_schedule(self) -> Schedule:
        return Schedule(np.arange(self.options.num_train_timesteps)[::-1].copy(), None, None)

    def _check_steps(self, steps: int) -> None:
        """Refuse more steps than were trained.

        Raises:
            InputError: naming both numbers.
        """
        trained = self.options.num_train_timesteps
        if steps > trained:
            raise InputError(
                f"{type(self).__name__}.set_timesteps: num_inference_steps is {steps}, expected at most "
                f"num_train_timesteps = {trained}, the number of timesteps that the model knows."
            )

    def add_noise(self, original_samples: Float32Array, noise: Float32Array, timesteps: Timesteps) -> Float32Array:
        """The sample at given timesteps: sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise.

        Args:
            original_samples: x_0, float32, (B, ...).
            noise: float32, same shape.
            timesteps: integers, (B,) or (1,).
        """
        signal, spread = self._scales(timesteps, original_samples.ndim)
        return signal * original_samples + spread * noise

    def get_velocity(self, sample: Float32Array, noise: Float32Array, timesteps: Timesteps) -> Float32Array:
        """The target of v-prediction, v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0; arguments as `add_noise`.

        Salimans & Ho 2022, appendix D, https://arxiv.org/abs/2202.00512.
        """
        signal, spread = self._scales(timesteps, sample.ndim)
        return signal * noise - spread * sample

    def _scales(self, timesteps: Timesteps, ndim: int) -> tuple[Float32Array, Float32Array]:
        alpha_bar = self.alphas_cumprod[np.asarray(timesteps).reshape(-1)]
        spread = float32.sqrt(np.float32(1) - alpha_bar)
        return per_image(float32.sqrt(alpha_bar), ndim), per_image(spread, ndim)
