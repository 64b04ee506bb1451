"""DPM-Solver++, multistep, for EDM models."""

from dataclasses import dataclass
from typing import Literal

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample, noise_like
from diffoundry.runtime.schedulers.arithmetic.thresholding import dynamic_threshold
from diffoundry.runtime.schedulers.base import StepResult
from diffoundry.runtime.schedulers.bases.edm_multistep import EDMMultistepOptions, EDMMultistepScheduler

__all__ = ["EDMDPMSolverMultistepOptions", "EDMDPMSolverMultistepScheduler"]


@dataclass(frozen=True, kw_only=True)
class EDMDPMSolverMultistepOptions(EDMMultistepOptions):
    """Options of `EDMDPMSolverMultistepScheduler`, named as in diffusers."""

    solver_order: Literal[1, 2, 3] = 2
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float | None = 1.0
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"

    def check(self, owner: str) -> None:
        """Refuse the order that diffusers has no update for."""
        super().check(owner)
        if self.algorithm_type == "sde-dpmsolver++" and self.solver_order == 3:
            raise ConfigError(
                f"{owner}: option 'solver_order' is 3 with algorithm_type 'sde-dpmsolver++', expected 1 or 2."
            )


class EDMDPMSolverMultistepScheduler(EDMMultistepScheduler[EDMDPMSolverMultistepOptions]):
    """DPM-Solver++ of order one to three, for the ODE and the SDE, over EDM's noise levels.

    The update is in `multistep.py`, the model's preconditioning in `edm.py`.

    Lu et al. 2022, https://arxiv.org/abs/2211.01095; Karras et al. 2022, https://arxiv.org/abs/2206.00364.
    """

    Options = EDMDPMSolverMultistepOptions

    def step(self, model_output: Sample, timestep: float, sample: Sample, *, generator: Generator = None) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: F, float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: source of z for "sde-dpmsolver++".

        Raises:
            InputError: no run is planned, or it is over.
        """
        self._require_run()
        i = self._index(timestep)
        options = self.options
        x0 = self._denoised(model_output, sample, self._sigma[i])
        if options.thresholding:
            ratio, limit = options.dynamic_thresholding_ratio, options.sample_max_value
            x0 = dynamic_threshold(x0, ratio=ratio, max_value=limit)
        noise = noise_like(x0, generator) if options.algorithm_type == "sde-dpmsolver++" else None
        following = self._following(
            x0, sample, i, solver_order=options.solver_order, algorithm=options.algorithm_type, noise=noise
        )
        return StepResult(following)
