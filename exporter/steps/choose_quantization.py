"""Chooses which operators of a bundle are quantized, for the precisions of its variants."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime.bundle.quantization import QuantizationChoice
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.targets.base import PrecisionFormat

__all__ = ["choose_quantization", "precision_formats"]


def choose_quantization(
    *,
    request: QuantizationRequest,
    variants: Sequence[Variant],
    folder: str,
    phase: Callable[[str], AbstractContextManager[None]],
    progress: Callable[[str], None],
) -> dict[str, QuantizationChoice]:
    """Calibrate the portable graphs of a bundle.

    Args:
        request: Budget and prompts.
        variants: Those whose precisions need a choice.
        folder: The bundle's folder.
        phase: Wraps the phase.
        progress: Called with a text as calibration proceeds.

    Returns:
        Precision to its choice.

    Raises:
        InputError: A budget cannot be met.
        EngineError: The float pipeline produces infinities or NaN.
    """
    from diffoundry.exporter.calibrate.calibrate import calibrate

    with phase("calibrate"):
        return calibrate(Path(folder), request, precision_formats(variants), progress)


def precision_formats(variants: Iterable[Variant]) -> dict[str, list[PrecisionFormat]]:
    """Precision to the different formats that the targets of these variants need for it.

    Raises:
        InputError: A target does not support a precision.
    """
    formats: dict[str, list[PrecisionFormat]] = {}
    for variant in variants:
        wanted = find_plugin(variant.target).make_target(variant.options).form(variant.precision)
        if wanted not in formats.setdefault(variant.precision, []):
            formats[variant.precision].append(wanted)
    return formats
