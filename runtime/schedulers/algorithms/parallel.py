"""DDIM and DDPM for parallel sampling: many timesteps of one run in one batch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.schedulers.algorithms.ddim import DDIMScheduler
from diffoundry.runtime.schedulers.algorithms.ddpm import DDPMScheduler
from diffoundry.runtime.schedulers.arithmetic.arrays import FloatArray
from diffoundry.runtime.schedulers.arithmetic.learned_variance import is_learned, split_variance

__all__ = ["DDIMParallelScheduler", "DDPMParallelScheduler"]

Timesteps = Sequence[int] | NDArray[Any]


class DDIMParallelScheduler(DDIMScheduler):
    """DDIM, and `batch_step_no_noise` for Picard iteration over the timesteps.

    Shih et al. 2023 (ParaDiGMS), Algorithm 1, https://arxiv.org/abs/2305.16317.
    """

    def batch_step_no_noise(
        self,
        model_output: FloatArray,
        timesteps: Timesteps,
        sample: FloatArray,
        *,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
    ) -> FloatArray:
        """One deterministic step of every image, each from its own timestep.

        Args:
            model_output: float32, (B, C, H, W).
            timesteps: (B,), the timestep of each image.
            sample: float32, same shape as `model_output`.
            eta: 0; the noise of a stochastic run is drawn beforehand and added by the caller.
            use_clipped_model_output: as in `step`.

        Returns:
            the next samples, same shape.

        Raises:
            InputError: no run is planned, or eta is not 0.
        """
        if eta != 0.0:
            raise InputError(f"{type(self).__name__}.batch_step_no_noise: eta is {eta}, expected 0: it adds no noise.")
        fork = self.copy()
        # as diffusers does here, whatever `set_alpha_to_one` says
        fork._final_alpha_bar = 1.0  # noqa: SLF001 - our own fork

        def advance(output: FloatArray, t: int, image: FloatArray) -> FloatArray:
            result: FloatArray = fork.step(
                output, t, image, use_clipped_model_output=use_clipped_model_output
            ).prev_sample
            return result

        return _each_image(advance, model_output, timesteps, sample)


class DDPMParallelScheduler(DDPMScheduler):
    """DDPM, and `batch_step_no_noise` for Picard iteration over the timesteps.

    Shih et al. 2023 (ParaDiGMS), Algorithm 1, https://arxiv.org/abs/2305.16317.
    """

    def batch_step_no_noise(self, model_output: FloatArray, timesteps: Timesteps, sample: FloatArray) -> FloatArray:
        """The mean of one step of every image, each from its own timestep t to t - T // N.

        Args:
            model_output: float32, (B, C, H, W), or (B, 2 C, H, W) with a learned variance, which is not used.
            timesteps: (B,), the timestep of each image.
            sample: float32, (B, C, H, W).

        Returns:
            the next samples without their noise, (B, C, H, W).

        Raises:
            InputError: the model has no variance where one is expected.
        """
        if is_learned(self.options.variance_type):
            model_output, _ = split_variance(model_output, sample)
        trained = self.options.num_train_timesteps
        stride = trained // (self.num_inference_steps or trained)

        def advance(output: FloatArray, t: int, image: FloatArray) -> FloatArray:
            mean: FloatArray = self._posterior_mean(output, t, t - stride, image)[0]
            return mean

        return _each_image(advance, model_output, timesteps, sample)


def _each_image(
    advance: Callable[[FloatArray, int, FloatArray], FloatArray],
    outputs: FloatArray,
    timesteps: Timesteps,
    samples: FloatArray,
) -> FloatArray:
    """`advance` of every (output, timestep, sample) of the batch."""
    rows = [
        advance(outputs[i : i + 1], int(t), samples[i : i + 1]) for i, t in enumerate(np.asarray(timesteps).reshape(-1))
    ]
    return np.concatenate(rows)
