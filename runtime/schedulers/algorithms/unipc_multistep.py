"""UniPC: one formula that predicts the next sample, and corrects this one once the model has seen it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.integer_timesteps import spaced_timesteps_before_zero
from diffoundry.runtime.schedulers.arithmetic.multistep import distinct_order
from diffoundry.runtime.schedulers.arithmetic.prediction import epsilon_from
from diffoundry.runtime.schedulers.arithmetic.sigmas import placed_sigmas, sigma_to_timestep
from diffoundry.runtime.schedulers.arithmetic.spacing import Spacing
from diffoundry.runtime.schedulers.arithmetic.unipc import UniPCSolver, read_unipc_solver, unipc_update
from diffoundry.runtime.schedulers.base import Schedule, StepResult
from diffoundry.runtime.schedulers.bases.lambda_scheduler import LambdaOptions, LambdaScheduler, refuse_flow_with
from diffoundry.runtime.schedulers.config import KARRAS_COMPATIBLES
from diffoundry.runtime.schedulers.options import SigmaSchedule
from diffoundry.runtime.schedulers.run_request import RunRequest

__all__ = ["UniPCMultistepOptions", "UniPCMultistepScheduler"]

_NEARLY_ONE = 1e-6  # a flow starts this far below sigma = 1, where no signal is left


@dataclass(frozen=True, kw_only=True)
class UniPCMultistepOptions(LambdaOptions):
    """Options of `UniPCMultistepScheduler`, named as in diffusers."""

    solver_order: int = 2
    predict_x0: bool = True
    solver_type: UniPCSolver = "bh2"
    lower_order_final: bool = True
    disable_corrector: Sequence[int] = field(default_factory=list)
    solver_p: None = None
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    use_dynamic_shifting: bool = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    sigma_min: float | None = None
    sigma_max: float | None = None
    shift_terminal: float | None = None

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the solver types of DPM-Solver and DEIS."""
        return read_unipc_solver(given)

    def check(self, owner: str) -> None:
        """Refuse what has no formula."""
        super().check(owner)
        if self.solver_order < 1:
            raise ConfigError(f"{owner}: option 'solver_order' is {self.solver_order}, expected at least 1.")
        if self.sigma_max is None or self.sigma_max >= 1.0:
            refuse_flow_with(self, owner, ("use_exponential_sigmas", "use_beta_sigmas"))
        if self.shift_terminal is not None and not self.use_flow_sigmas:
            raise ConfigError(
                f"{owner}: option 'shift_terminal' is {self.shift_terminal} without 'use_flow_sigmas', whose levels it "
                "stretches: turn that on, or leave this out."
            )
        if not self.predict_x0 and self.prediction_type == "flow_prediction":
            raise ConfigError(
                f"{owner}: option 'prediction_type' is 'flow_prediction' with 'predict_x0' false, expected 'epsilon', "
                "'sample' or 'v_prediction', or 'predict_x0' true."
            )


class UniPCMultistepScheduler(LambdaScheduler[UniPCMultistepOptions]):
    """UniPC of any order, on x0 (`predict_x0`) or on epsilon: `unipc_update` is the formula.

    Each step first goes over the one before again, now knowing the model's output at its end (the corrector), and then
    to the next level (the predictor).

    Zhao et al. 2023, Algorithms 1 to 4, https://arxiv.org/abs/2302.04867. As in diffusers, `thresholding` has no effect
    on epsilon, and `mu` none without `use_dynamic_shifting`. `solver_p`, another scheduler object as predictor, is not
    taken.
    """

    Options = UniPCMultistepOptions
    compatible_names = KARRAS_COMPATIBLES
    custom_schedules = frozenset({"sigmas", "mu"})

    def _schedule(self, request: RunRequest) -> Schedule:
        options = self.options
        self._check_request(request)
        given = request.sigmas
        steps = request.steps if given is None else len(given)
        if options.sigma_schedule is not SigmaSchedule.TRAINED:
            timesteps, levels = self._placed(options.sigma_schedule, steps)
        elif options.use_flow_sigmas:
            levels = self._flow_levels(steps, given, request.mu)
            timesteps = levels * options.num_train_timesteps
        else:
            spaced = spaced_timesteps_before_zero(
                options.timestep_spacing,
                steps=steps,
                train_steps=options.num_train_timesteps,
                last=options.num_train_timesteps,
                offset=options.steps_offset,
            )
            timesteps, levels = self._levels(spaced, steps, shift=1.0, round_karras=True)
        if options.final_sigmas_type == "sigma_min":
            return self._ending_above_zero(timesteps, levels)
        integers = timesteps.astype(np.int64)
        return Schedule(integers, np.append(levels, 0.0).astype(np.float32), len(integers))

    def _check_request(self, request: RunRequest) -> None:
        owner, options = type(self).__name__, self.options
        if options.use_dynamic_shifting:
            request.require_mu(owner)
        if request.sigmas is None:
            return
        if not options.use_flow_sigmas:
            raise InputError(
                f"{owner}.set_timesteps takes sigmas only with the option 'use_flow_sigmas'. Turn it on, or pass "
                "num_inference_steps."
            )
        if options.sigma_schedule is not SigmaSchedule.TRAINED:
            raise InputError(
                f"{owner}.set_timesteps: got sigmas, but the option 'use_{options.sigma_schedule}_sigmas' places them. "
                "Pass num_inference_steps, or turn the option off."
            )

    def _placed(self, rule: SigmaSchedule, steps: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Timesteps and levels of Karras, exponential and beta sigmas, between `sigma_min` and `sigma_max`."""
        options, trained = self.options, self._training_sigmas
        low, high = self._carried_ends(trained[0].item(), trained[-1].item())
        levels = placed_sigmas(rule, low, high, steps)
        if rule is SigmaSchedule.KARRAS and options.use_flow_sigmas:
            levels = levels / (levels + 1)
            return levels * options.num_train_timesteps, levels
        timesteps = sigma_to_timestep(levels, self._log_training_sigmas)
        return timesteps.round() if rule is SigmaSchedule.KARRAS else timesteps, levels

    def _flow_levels(self, steps: int, given: Sequence[float] | None, mu: float | None) -> NDArray[np.float64]:
        """Evenly spaced or given levels, shifted and stretched."""
        options = self.options
        if given is None:
            sigmas = np.linspace(1, 1 / options.num_train_timesteps, steps + 1)[:-1]
        else:
            sigmas = np.asarray(given, dtype=np.float64)
        if options.use_dynamic_shifting:
            assert mu is not None
            weight = math.exp(mu) if options.time_shift_type == "exponential" else mu
            sigmas = weight / (weight + (1 / sigmas - 1))
        else:
            sigmas = options.flow_shift * sigmas / (1 + (options.flow_shift - 1) * sigmas)
        if options.shift_terminal and sigmas[-1] < 1:
            sigmas = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - options.shift_terminal))
        if abs(sigmas[0] - 1) < _NEARLY_ONE:
            sigmas = np.append(sigmas[0] - _NEARLY_ONE, sigmas[1:])
        return sigmas

    def _reset(self) -> None:
        self._outputs: tuple[Sample, ...] = ()
        self._last_sample: Sample | None = None
        self._last_order = 0

    def step(
        self,
        model_output: Sample,
        timestep: int,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Correct the sample, then go to the next timestep.

        Args:
            model_output: float32, (B, ...).
            timestep: one of `timesteps`.
            sample: x, same shape.
            generator: ignored, the method is deterministic.

        Raises:
            InputError: no run is planned, or it is over.
        """
        self._require_run()
        i = self._index(timestep)
        options = self.options
        newest = self._converted(model_output, sample, self._sigma[i])
        if i > 0 and self._last_sample is not None and i - 1 not in options.disable_corrector:
            sample = self._update(i, self._last_sample, self._last_order, reached=newest)
        self._outputs = (newest, *self._outputs[: options.solver_order - 1])
        order = len(self._outputs)
        if options.lower_order_final:
            order = min(order, len(self.timesteps) - i)
        self._last_order = distinct_order(self._sigma, i, order)
        self._last_sample = sample
        following = self._update(i + 1, sample, self._last_order)
        self._advance()
        return StepResult(following)

    def _converted(self, output: Sample, sample: Sample, sigma: float) -> Sample:
        if self.options.predict_x0:
            return self._x0(output, sample, sigma)
        return epsilon_from(self.options.prediction_type, output, sample, **self._named_scales(sigma))

    def _update(self, target: int, sample: Sample, order: int, reached: Sample | None = None) -> Sample:
        """The sample at index `target` from the one before.

        Args:
            target: index of the level to reach.
            sample: x at the level before it.
            order: p.
            reached: the model's output at the target, for the corrector.
        """
        return unipc_update(
            sample,
            self._outputs[:order],
            [self._node(target - j) for j in range(order + 1)],
            predict_x0=self.options.predict_x0,
            solver_type=self.options.solver_type,
            reached=reached,
        )
