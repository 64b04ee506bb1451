"""DDIM as CogVideoX samples with it."""

from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.prediction import x0_from
from diffoundry.runtime.schedulers.base import StepResult
from diffoundry.runtime.schedulers.bases.cogvideox import CogVideoXScheduler

__all__ = ["CogVideoXDDIMScheduler"]


class CogVideoXDDIMScheduler(CogVideoXScheduler):
    """Deterministic DDIM over CogVideoX's alpha_bar.

        x_{t-1} = r x_t + (sqrt(a') - r sqrt(a)) x0,    r = sqrt((1 - a') / (1 - a))

    with a, a' the levels of this timestep and of the next.

    Song et al. 2020, equation 12 with sigma = 0, https://arxiv.org/abs/2010.02502.
    diffusers: r = `a_t`, the factor of x0 = `b_t`. Its `step` also takes `eta`, `use_clipped_model_output` and
    `variance_noise`, and ignores them; this one does not take them.
    """

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go from x_t to x_{t-1}.

        Args:
            model_output: float32, (B, F, C, H, W); its meaning is `prediction_type`.
            timestep: t, one of `timesteps`.
            sample: x_t, same shape.
            generator: not used.

        Raises:
            InputError: no run is planned.
        """
        a, a_next = self._levels(int(timestep))
        x0 = x0_from(self.options.prediction_type, model_output, sample, alpha=a**0.5, sigma=(1.0 - a) ** 0.5)
        r = ((1.0 - a_next) / (1.0 - a)) ** 0.5
        return StepResult(r * sample + (a_next**0.5 - r * a**0.5) * x0, x0)
