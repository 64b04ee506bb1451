"""Linear multistep (Adams-Bashforth) on the probability flow ODE, over unevenly spaced noise levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.respaced_sigmas import RespacedSigmaScheduler
from diffoundry.runtime.schedulers.bases.spaced_sigmas import SpacedSigmaOptions
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["LMSDiscreteOptions", "LMSDiscreteScheduler", "lagrange_integral"]


@dataclass(frozen=True, kw_only=True)
class LMSDiscreteOptions(SpacedSigmaOptions):
    """Options of `LMSDiscreteScheduler`, named as in diffusers."""

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"


class LMSDiscreteScheduler(RespacedSigmaScheduler[LMSDiscreteOptions]):
    """x' = x + sum over j of c_j d_j, with d_j the derivative (x - x0) / sigma j steps ago.

    c_j is the integral from sigma to sigma' of the Lagrange polynomial that is one at sigma_j and zero at the other
    noise levels of the last `order` steps: the derivatives' interpolant is integrated exactly.

    Hairer, Norsett & Wanner 1993, section III.5; k-diffusion, `sample_lms`, which integrates numerically.
    diffusers: c_j = `lms_coeffs`, d_j = `derivatives`. A run that starts in the middle has the coefficients of the full
    order with the derivatives that there are, as in diffusers.
    """

    Options = LMSDiscreteOptions
    compatible_names = KARRAS_COMPATIBLES
    karras_between_own_ends = True

    def _plan(self, request: RunRequest, train_steps: int) -> Schedule:
        timesteps, levels = self._levels(request, train_steps)
        sigmas = np.append(levels, 0.0).astype(np.float32)
        return Schedule(timesteps.astype(np.float32), sigmas, request.num_inference_steps)

    def _reset(self) -> None:
        self._derivatives: tuple[Sample, ...] = ()

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        order: int = 4,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go from sigma to the next lower sigma'.

        Args:
            model_output: float32, (B, C, H, W), for the input from `scale_model_input`.
            timestep: one of `timesteps`.
            sample: x, same shape.
            order: number of derivatives to use, fewer in the first steps.
            generator: ignored, the method is deterministic.

        Raises:
            InputError: the first timestep of a run that is not in the schedule.
        """
        i = self._index(timestep)
        sigma, sigma_next = self._sigma[i], self._sigma[i + 1]
        x0 = self._denoised(model_output, sample, sigma)
        derivative = (sample - x0) * (1.0 / sigma)
        self._derivatives = (derivative, *self._derivatives[: order - 1])

        nodes = [self._sigma[i - j] for j in range(min(i + 1, order))]
        following = sample
        for j, earlier in enumerate(self._derivatives):
            following = following + lagrange_integral(nodes, j, sigma, sigma_next) * earlier
        self._advance()
        return StepResult(following, x0)


def lagrange_integral(nodes: Sequence[float], j: int, start: float, stop: float) -> float:
    """The integral from start to stop of the polynomial that is one at nodes[j] and zero at the other nodes."""
    # coefficients by power of (x - start), lowest first
    polynomial = [1.0]
    for k, node in enumerate(nodes):
        if k != j:
            scale = 1.0 / (nodes[j] - node)
            raised, lowered = [0.0, *polynomial], [*polynomial, 0.0]
            polynomial = [(a + (start - node) * b) * scale for a, b in zip(raised, lowered, strict=True)]
    step = stop - start
    return sum(c * step ** (power + 1) / (power + 1) for power, c in enumerate(polynomial))
