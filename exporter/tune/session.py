"""Measurements of approximations on the engines of a bundle, as `verify --approximation` and `tune` make them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from diffoundry.exporter.tune.approximation import Approximation
from diffoundry.exporter.tune.measure import ApproximationReport, Exact, compare, generate_exact
from diffoundry.exporter.tune.ray_sweep import measure_with_ray
from diffoundry.exporter.tune.search import Measure, MeasureHere, candidates, search
from diffoundry.exporter.verify.checkpoint_source import find_checkpoint
from diffoundry.exporter.verify.checks.nearest_image import Gallery, gallery_of_images, open_gallery
from diffoundry.exporter.verify.image_size import settings_for
from diffoundry.exporter.verify.request import Settings, VerifyRequest
from diffoundry.exporter.verify.variants import find_variants
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import DiffoundryError
from diffoundry.runtime.pipelines import open_pipeline

__all__ = ["MeasuredVariant", "Tuned", "measure_approximations", "tune"]

OnStep = Callable[[str, int, int], None]
"""Called with (what is done, steps done, steps in all)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredVariant:
    """The approximations on one set of engines.

    Attributes:
        name: Target and precision.
        settings: Of the exact loop.
        gallery: Origin of the images that name an object, in words; None without.
        reports: One for each approximation.
    """

    name: str
    settings: Settings
    gallery: str | None
    reports: tuple[ApproximationReport, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """The result of a search.

    Attributes:
        name: Target and precision of the engines.
        settings: Of the exact loop, with the prompts that were held out.
        found: The approximation; None if none is within the budget.
        searched: Its distances over the prompts of the search.
        held_out: Its distances and times over the others.
        tried: Number of approximations.
    """

    name: str
    settings: Settings
    found: Approximation | None
    searched: ApproximationReport | None
    held_out: ApproximationReport | None
    tried: int


def measure_approximations(
    bundle: Bundle, request: VerifyRequest, approximations: Sequence[Approximation], on_step: OnStep
) -> list[MeasuredVariant]:
    """Compare approximations with the exact loop of the same engines, for every set of engines that can run here.

    Raises:
        EngineError: No engine of the bundle can run here.
        InputError: The bundle does not take an approximation.
    """
    variants, _ = find_variants(bundle, request)
    measured = []
    for variant in variants:
        pipeline = open_pipeline(variant.components, safety_checker=None)
        try:
            settings = settings_for(pipeline, request)
            exact = generate_exact(pipeline, settings, lambda *counts: on_step("the exact loop", *counts))
            gallery = _gallery(bundle, exact)
            reports = []
            for index, one in enumerate(approximations):
                on_step(f"{variant.name}: {one.text}", index, len(approximations))
                reports.append(compare(pipeline, settings, one, exact, gallery))
        finally:
            variant.components.close()
        source = None if gallery is None else gallery.source
        measured.append(MeasuredVariant(name=variant.name, settings=settings, gallery=source, reports=tuple(reports)))
    return measured


def tune(bundle: Bundle, request: VerifyRequest, min_psnr: float, on_step: OnStep, ray: str | None = None) -> Tuned:
    """Search the approximation that is fastest within a budget, on the engines that `generate` would choose.

    Every second prompt of the request is held out: a candidate of the search counts if it keeps the budget there too.

    Args:
        bundle: The bundle.
        request: Prompts, at least two, seeds, steps and guidance of the exact loop, and the engines.
        min_psnr: Least mean PSNR in dB.
        on_step: Progress.
        ray: Address of the Ray cluster that the search runs on; None for this process. Exact images and the times of
            the result are always measured here.

    Raises:
        EngineError: No engine of the bundle can run here.
        InputError: The bundle takes no approximation, or as `RayWorkers`.
    """
    variant = find_variants(bundle, request)[0][0]
    pipeline = open_pipeline(variant.components, safety_checker=None)
    try:
        whole = settings_for(pipeline, request)
        settings, others = (replace(whole, prompts=whole.prompts[start::2] or whole.prompts) for start in (0, 1))
        exact = generate_exact(pipeline, settings, lambda *counts: on_step("the exact loop", *counts))
        held = generate_exact(pipeline, others, lambda *counts: on_step("the exact loop, held out", *counts))
        tried = list(candidates(request.steps))
        with _measure(ray, bundle, request, variant.name, MeasureHere(pipeline, settings, exact)) as measure:
            found = search(measure, exact, min_psnr, tried, lambda done, total, text: on_step(text, done, total))
        gallery = _gallery(bundle, held)
        for one, searched in found:
            on_step(f"{one.text}, held-out prompts", 0, 1)
            report = compare(pipeline, others, one, held, gallery)
            if report.psnr >= min_psnr:
                return Tuned(
                    name=variant.name, settings=others, found=one, searched=searched, held_out=report, tried=len(tried)
                )
        return Tuned(name=variant.name, settings=others, found=None, searched=None, held_out=None, tried=len(tried))
    finally:
        variant.components.close()


def _measure(
    ray: str | None, bundle: Bundle, request: VerifyRequest, engines: str, here: MeasureHere
) -> AbstractContextManager[Measure]:
    """Return what measures the search: this process, or a cluster."""
    if ray is None:
        return nullcontext(here)
    return measure_with_ray(ray, bundle, request, engines, here.settings, here.exact)


def _gallery(bundle: Bundle, exact: Exact) -> Gallery | None:
    """Return the checkpoint's gallery where it is found, else one of the exact loop's own images."""
    try:
        gallery = open_gallery(find_checkpoint(bundle).root)
    except DiffoundryError:
        gallery = None
    pairs = [(one.prompt, one.image) for one in exact]
    return gallery or gallery_of_images("the exact loop's images", pairs)
