"""A guided prediction with fewer rows or fewer calls, as `guidance_interval` and `cache` of a call say."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffoundry.runtime.checks.approximations import SPLIT_CACHES, CacheChoice, parse_cache
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.protocols import Denoiser, Feeds, FloatArray
from diffoundry.runtime.pipelines.approximations.caches import Calls, Forecast, SeaCalls, TaylorCalls
from diffoundry.runtime.pipelines.approximations.split_caches import check_split_cache, with_split_cache
from diffoundry.runtime.pipelines.denoising import Predict
from diffoundry.runtime.pipelines.ending_guidance import EndingGuidance
from diffoundry.runtime.pipelines.guidance import ClassifierFreeGuidance, Guidance, Unguided
from diffoundry.runtime.pipelines.step_guidance import StepGuidance, last_rows
from diffoundry.runtime.schedulers import Scheduler

__all__ = ["approximate", "with_cache"]


def approximate(
    predict: Callable[[Guidance], Predict],
    interval: tuple[float, float] | None,
    cache: str | None,
    guidance: Guidance,
    scheduler: Scheduler[Any],
    total: int,
    session: EngineSession,
) -> Predict:
    """Return a prediction that is guided in some of the steps, and calls the denoiser in some of them.

    Outside `interval` the rows of the negative prompts are not run. Kynkäänniemi et al. 2024,
    https://arxiv.org/abs/2404.07724, with the steps counted as diffusers' guiders do it: from int(low * total), and
    before int(high * total).

    Args:
        predict: Guidance -> the prediction of the denoiser with it.
        interval: As `CommonInputs.guidance_interval`.
        cache: As `CommonInputs.cache`.
        guidance: Of the call.
        scheduler: Of the run, its timesteps set.
        total: Steps of the loop.
        session: The engines of the call.

    Raises:
        InputError: The call has no guidance by a negative prompt, which the arguments leave out; or no network has the
            inner part that the cache leaves out.
    """
    check_split_cache(cache, session)
    choice = None if cache is None else parse_cache(cache)
    if choice is not None and choice.kind in SPLIT_CACHES:
        whole = (
            approximate(predict, interval, None, guidance, scheduler, total, session) if interval else predict(guidance)
        )
        return with_split_cache(choice, whole, total)
    ending = isinstance(guidance, EndingGuidance) and _needs_parts(interval, choice)
    plain = isinstance(guidance, ClassifierFreeGuidance) and not isinstance(guidance, StepGuidance)
    if not (ending or plain):
        _refuse_parts(interval, cache, choice, guidance)
        assert choice is not None, "an interval is refused"
        return with_cache(choice, predict(guidance), scheduler, total)
    low, high = interval or (0.0, 1.0)
    return _GuidedSteps(
        guidance,
        guides=guidance.guides if isinstance(guidance, EndingGuidance) else lambda _timestep, _index: True,
        rows=predict(_Rows()),
        prompts=predict(_Prompts()),
        guided=range(int(low * total), int(high * total)),
        calls=None if choice is None else _calls(choice, scheduler, total),
        choice=choice or CacheChoice("none"),
        total=total,
    )


def with_cache(choice: CacheChoice, predict: Predict, scheduler: Scheduler[Any], total: int) -> Predict:
    """Return a prediction that forecasts its output in some of the steps.

    Args:
        choice: A cache of any kind but guidance.
        predict: Guidance included.
        scheduler: Of the run, its timesteps set.
        total: Steps of the loop.
    """
    if choice.kind in SPLIT_CACHES:
        return with_split_cache(choice, predict, total)
    calls, forecast = _calls(choice, scheduler, total), Forecast(choice.order)

    def predict_or_forecast(latents: FloatArray, timestep: float, index: int) -> FloatArray:
        if calls is not None and not calls(latents, timestep, index):
            return forecast(index)
        output = predict(latents, timestep, index)
        forecast.keep(output, index)
        return output

    return predict_or_forecast


class _GuidedSteps:
    """The prediction of one run with classifier-free guidance.

    Of a step that does not call the denoiser both the prediction for the prompts and its difference to that for the
    negative prompts are forecast, so that they always belong together.
    """

    def __init__(
        self,
        guidance: Guidance,
        *,
        guides: Callable[[float, int], bool],
        rows: Predict,
        prompts: Predict,
        guided: range,
        calls: Calls | None,
        choice: CacheChoice,
        total: int,
    ) -> None:
        """Keep nothing yet.

        Args:
            guidance: Of the call.
            guides: (timestep, index) -> whether the guidance itself takes part in a step.
            rows: Predicts for the negative prompts and the prompts, (2 B, ...).
            prompts: Predicts for the prompts alone, (B, ...).
            guided: Indices of the steps that may have guidance.
            calls: Decides which steps call the denoiser; None for all.
            choice: The cache.
            total: Steps of the loop.
        """
        self._guidance, self._rows, self._prompts, self._guided, self._calls = guidance, rows, prompts, guided, calls
        self._guides = guides
        self._in_full = [
            choice.kind != "guidance" or (index - guided.start) % choice.interval == 0 or index >= total - choice.final
            for index in range(total)
        ]
        order = choice.order if choice.guidance_order is None else choice.guidance_order
        self._conditional, self._difference = Forecast(choice.order), Forecast(order)

    def __call__(self, latents: FloatArray, timestep: float, index: int) -> FloatArray:
        """See `denoising.Predict`."""
        guided = index in self._guided and self._guides(timestep, index)
        called = self._calls is None or self._calls(latents, timestep, index)
        if guided and (not self._difference or (called and self._in_full[index])):
            output = self._rows(latents, timestep, index)
            unconditional, conditional = np.split(output, 2)
            self._conditional.keep(conditional, index)
            self._difference.keep(conditional - unconditional, index)
            return self._guidance.combine(output)
        if called:
            conditional = self._prompts(latents, timestep, index)
            self._conditional.keep(conditional, index)
        else:
            conditional = self._conditional(index)
        if not guided:
            return conditional
        return self._guidance.combine(np.concatenate([conditional - self._difference(index), conditional]))


class _Rows(Unguided):
    """Both halves of the denoiser's output as they are."""

    copies = 2


class _Prompts(Unguided, StepGuidance):
    """Runs the prompts alone, with inputs that were made for the negative prompts as well."""

    def predict(
        self,
        denoiser: Denoiser | Any,
        sample: FloatArray,
        timestep: float,
        feeds: Feeds,
        index: int,  # noqa: ARG002
    ) -> FloatArray:
        """See `StepGuidance.predict`; the rows of the prompts are the last."""
        prediction: FloatArray = denoiser(sample, timestep, last_rows(feeds, len(sample)))
        return prediction


def _calls(choice: CacheChoice, scheduler: Scheduler[Any], total: int) -> Calls | None:
    """Return the decision that a cache makes in every step; None where every step calls the denoiser."""
    first = choice.order + 1
    if choice.kind == "taylor":
        return TaylorCalls(first, choice.interval, choice.final, total)
    if choice.kind == "guidance":
        return None

    def noise_level(timestep: float) -> tuple[float, float]:
        one, none, times = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), np.asarray([timestep])
        return float(scheduler.add_noise(one, none, times)[0, 0]), float(scheduler.add_noise(none, one, times)[0, 0])

    return SeaCalls(first, choice.threshold, choice.final, total, noise_level)


def _needs_parts(interval: object, choice: CacheChoice | None) -> bool:
    """Return whether the predictions for prompts and negative prompts are needed apart."""
    own = choice is not None and (choice.kind == "guidance" or choice.guidance_order is not None)
    return interval is not None or own


def _refuse_parts(interval: object, cache: str | None, choice: CacheChoice | None, guidance: Guidance) -> None:
    """Refuse arguments that leave out rows of negative prompts, for guidance that has none or is of another kind."""
    if not _needs_parts(interval, choice):
        return
    got = f"guidance_interval: got {interval}" if interval is not None else f"cache: got {cache!r}"
    kind = "without guidance by a negative prompt" if not guidance.guided else "with guidance of several terms"
    raise InputError(f"{got} for a call {kind}, expected one whose guidance is by the negative prompt alone")
