"""UniPC or Euler on one stage of Helios's flow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.schedulers.arithmetic.arrays import Generator, Sample
from diffoundry.runtime.schedulers.arithmetic.lambda_sigmas import variance_preserving
from diffoundry.runtime.schedulers.arithmetic.multistep import Node
from diffoundry.runtime.schedulers.arithmetic.prediction import epsilon_from, x0_from
from diffoundry.runtime.schedulers.arithmetic.unipc import UniPCSolver, read_unipc_solver, unipc_update
from diffoundry.runtime.schedulers.base import StepResult
from diffoundry.runtime.schedulers.bases.helios_stages import HeliosStageOptions, HeliosStageScheduler

__all__ = ["HeliosOptions", "HeliosScheduler"]

_LEAST_SIGMA = 1e-8  # replaces sigma = 0 in logarithms


@dataclass(frozen=True, kw_only=True)
class HeliosOptions(HeliosStageOptions):
    """Options of `HeliosScheduler`, named as in diffusers, which has the option `thresholding` but no code for it."""

    thresholding: Literal[False] = False
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "flow_prediction"
    solver_order: int = 2
    predict_x0: bool = True
    solver_type: UniPCSolver = "bh2"
    lower_order_final: bool = True
    disable_corrector: Sequence[int] = field(default_factory=list)
    solver_p: None = None
    use_flow_sigmas: bool = True
    scheduler_type: Literal["unipc", "euler"] = "unipc"

    @classmethod
    def translate(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the solver types of DPM-Solver and DEIS."""
        return read_unipc_solver(given)

    def check(self, owner: str) -> None:
        """Refuse what has no formula."""
        super().check(owner)
        if self.solver_order < 1:
            raise ConfigError(f"{owner}: option 'solver_order' is {self.solver_order}, expected at least 1.")
        if not self.predict_x0 and self.prediction_type == "flow_prediction" and self.scheduler_type == "unipc":
            raise ConfigError(
                f"{owner}: option 'prediction_type' is 'flow_prediction' with 'predict_x0' false, expected 'epsilon', "
                "'sample' or 'v_prediction', or 'predict_x0' true."
            )


class HeliosScheduler(HeliosStageScheduler[HeliosOptions]):
    """The steps of one stage, by UniPC ("unipc") or by x' = x + (sigma' - sigma) v ("euler").

    UniPC as in `unipc.py`, with alpha = 1 - sigma (`use_flow_sigmas`) and sigma no less than 1e-8, so that also the end
    of a run has a logarithm. A run always starts at its first timestep, whatever `set_begin_index` says, and the
    Euler step takes every output for a flow's, as in diffusers.

    Yuan et al. 2026 (Helios), https://arxiv.org/abs/2603.04379; Zhao et al. 2023 (UniPC),
    https://arxiv.org/abs/2302.04867.
    """

    Options = HeliosOptions

    def _reset(self) -> None:
        self._outputs: tuple[Sample, ...] = ()
        self._last_sample: Sample | None = None
        self._last_order = 0

    def step(
        self,
        model_output: Sample,
        timestep: float,
        sample: Sample,
        *,
        generator: Generator = None,  # noqa: ARG002 - the loop passes it to every scheduler
    ) -> StepResult:
        """Go to the next timestep.

        Args:
            model_output: float32, (B, C, F, H, W).
            timestep: one of `timesteps`, in order.
            sample: x, same shape.
            generator: not used.

        Raises:
            InputError: no run is planned, it is over, or an integer timestep ("euler").
        """
        self._require_run()
        if self.options.scheduler_type == "euler":
            self._refuse_integer(timestep)
        if self.step_index is None:
            self.step_index = 0
        i = self._index(timestep)
        if self.options.scheduler_type == "euler":
            following = sample + (self._sigma[i + 1] - self._sigma[i]) * model_output
        else:
            following = self._unipc(i, model_output, sample)
        self._advance()
        return StepResult(following)

    def _unipc(self, i: int, model_output: Sample, sample: Sample) -> Sample:
        """Correct the sample of step i, then predict the next one."""
        options = self.options
        newest = self._converted(model_output, sample, i)
        if i > 0 and self._last_sample is not None and i - 1 not in options.disable_corrector:
            sample = self._update(i, self._last_sample, self._last_order, reached=newest)
        self._outputs = (newest, *self._outputs[: options.solver_order - 1])
        order = len(self._outputs)
        if options.lower_order_final:
            order = min(order, len(self.timesteps) - i)
        self._last_sample, self._last_order = sample, order
        return self._update(i + 1, sample, order)

    def _node(self, i: int) -> Node:
        sigma = self._sigma[i]
        if self.options.use_flow_sigmas:
            return Node(1.0 - sigma, max(sigma, _LEAST_SIGMA))
        return Node(*variance_preserving(sigma))

    def _converted(self, output: Sample, sample: Sample, i: int) -> Sample:
        """The model's x0 or epsilon."""
        kind, sigma = self.options.prediction_type, self._sigma[i]
        node = Node(1.0 - sigma, sigma) if kind == "flow_prediction" else self._node(i)
        convert = x0_from if self.options.predict_x0 else epsilon_from
        return convert(kind, output, sample, alpha=node.alpha, sigma=node.sigma)

    def _update(self, target: int, sample: Sample, order: int, reached: Sample | None = None) -> Sample:
        """The sample at index `target` from the one before, with the outputs of the levels before it."""
        return unipc_update(
            sample,
            self._outputs[:order],
            [self._node(target - j) for j in range(order + 1)],
            predict_x0=self.options.predict_x0,
            solver_type=self.options.solver_type,
            reached=reached,
        )
