"""Caches of the inner part of a split denoiser: which steps run it, and the loops that they belong to."""

from functools import partial

import numpy as np

from diffoundry.runtime.bundle.specs import EnginePart
from diffoundry.runtime.checks.approximations import SPLIT_CACHES, CacheChoice, parse_cache
from diffoundry.runtime.engines.body_cache import BodyCache, RunsBody
from diffoundry.runtime.engines.part_names import LATENTS, SKIPPED, TIMESTEPS
from diffoundry.runtime.engines.protocol import Array
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.controlnet import is_residual
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.pipelines.approximations.caches import Forecast
from diffoundry.runtime.pipelines.denoising import Predict

__all__ = ["check_split_cache", "with_split_cache"]


def check_split_cache(cache: str | None, session: EngineSession) -> None:
    """Refuse a cache of the inner part where no denoiser has one.

    Args:
        cache: As `CommonInputs.cache`.
        session: The engines of the call.

    Raises:
        InputError: The denoiser is one graph, or is no transformer and the cache compares its first block.
        EngineError: No engine of it can run here.
    """
    choice = None if cache is None else parse_cache(cache)
    if choice is None or choice.kind not in SPLIT_CACHES:
        return
    names = session.with_role(DENOISER)
    bodies = [body for name in names if (body := _body(session, name)) is not None]
    if not bodies:
        raise InputError(
            f"cache: got {cache!r} for a bundle whose {' and '.join(names) or 'networks'} cannot leave out a part, "
            f"expected one that was exported with --split; export it again with --split, or choose taylor or sea"
        )
    if choice.kind == "first-block" and not any(body.residuals for body in bodies):
        raise InputError(
            f"cache: got {cache!r} for the UNet of this bundle, expected a transformer, whose first block is compared; "
            f"choose deep:INTERVAL"
        )


def _body(session: EngineSession, name: str) -> EnginePart | None:
    choice = session.choice(name)
    parts = () if choice is None else choice.spec.parts
    return next((part for part in parts if part.name in SKIPPED), None)


def with_split_cache(choice: CacheChoice, predict: Predict, total: int) -> Predict:
    """Return a prediction that leaves out the inner part of the denoiser in some of the steps.

    What it keeps belongs to this prediction, and so to one loop of one run.

    Args:
        choice: A cache of `SPLIT_CACHES`.
        predict: Guidance included; it may call the denoiser several times in a step.
        total: Steps of the loop.
    """
    make_kept, compares = partial(Forecast, choice.order), choice.kind == "first-block"
    cache = BodyCache(_decision(choice, total), make_kept, _varies, compares=compares)

    def predict_with_cache(latents: FloatArray, timestep: float, index: int) -> FloatArray:
        with cache.step(index):
            return predict(latents, timestep, index)

    return predict_with_cache


def _varies(name: str) -> bool:
    return name in LATENTS or name in TIMESTEPS or is_residual(name)


def _decision(choice: CacheChoice, total: int) -> RunsBody:
    """Return the rule of a cache for the steps that run the inner part."""
    if choice.kind == "deep":

        def runs(index: int, change: Array | None, before: Array | None) -> bool:  # noqa: ARG001
            return index <= choice.order or index >= total - choice.final or index % choice.interval == 0

        return runs

    def runs_on_change(index: int, change: Array | None, before: Array | None) -> bool:
        """As diffusers' `FirstBlockCacheConfig`: over all rows, so both branches of guidance and all images."""
        if index >= total - choice.final or change is None or before is None:
            return True
        return bool(np.abs(change - before).mean() / np.abs(before).mean() > choice.threshold)

    return runs_on_change
