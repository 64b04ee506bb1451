"""DPM-Solver++ for models of the cosine schedule: the SDE, with noise from a Brownian path."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Float32Array, Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.brownian import BrownianNoise, path_seed
from diffoundry.runtime.schedulers.base import StepResult
from diffoundry.runtime.schedulers.bases.edm_multistep import EDMMultistepOptions, EDMMultistepScheduler

__all__ = ["CosineDPMSolverMultistepOptions", "CosineDPMSolverMultistepScheduler"]


@dataclass(frozen=True, kw_only=True)
class CosineDPMSolverMultistepOptions(EDMMultistepOptions):
    """Options of `CosineDPMSolverMultistepScheduler`, named as in diffusers."""

    sigma_min: float = 0.3
    sigma_max: float = 500
    sigma_data: float = 1.0
    sigma_schedule: Literal["karras", "exponential"] = "exponential"
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    solver_order: Literal[1, 2] = 2


class CosineDPMSolverMultistepScheduler(EDMMultistepScheduler[CosineDPMSolverMultistepOptions]):
    """DPM-Solver++ for the SDE, of order one or two, over EDM's preconditioning with another time.

    The model's timestep is t = 2 / pi atan(sigma), the time of the cosine schedule. The update is in `multistep.py`,
    the preconditioning in `edm.py`; the noise is that of a Brownian path over [sigma_min, sigma_max], seeded by the
    generator's seed, whatever was drawn from it.

    Lu et al. 2022, https://arxiv.org/abs/2211.01095; Evans et al. 2024, https://arxiv.org/abs/2407.14358 (Stable
    Audio Open). diffusers: `precondition_noise`, `noise_sampler`.
    """

    Options = CosineDPMSolverMultistepOptions

    def _timesteps_of(self, levels: Float32Array) -> Float32Array:
        angle = np.arctan(levels.astype(np.float64)).astype(np.float32)
        return angle / np.float32(math.pi) * np.float32(2)

    def _reset(self) -> None:
        super()._reset()
        self._noise: BrownianNoise | None = None

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: float32, (B, ...), for the input from `scale_model_input`.
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: whose seed is that of the path; read at the first call of a run.

        Raises:
            InputError: no run is planned, or it is over.
        """
        self._require_run()
        i = self._index(timestep)
        options = self.options
        if self._noise is None:
            seed = path_seed(generator)
            self._noise = BrownianNoise(sample.shape, options.sigma_min, options.sigma_max, seed)
        following = self._following(
            self._denoised(model_output, sample, self._sigma[i]),
            sample,
            i,
            solver_order=options.solver_order,
            algorithm="sde-dpmsolver++",
            noise=self._noise(self._sigma[i], self._sigma[i + 1], sample),
        )
        return StepResult(following)
