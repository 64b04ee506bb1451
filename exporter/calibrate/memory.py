"""Memory that calibration takes, from the sizes of the graphs, before an engine is opened."""

from collections.abc import Callable, Mapping, Sequence

from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.runtime.engines.available_memory import available_memory, check_memory, describe_bytes
from diffoundry.targets.base import PrecisionFormat

__all__ = ["check_calibration_memory"]

_USUAL = 3
"""Peak memory over the bytes of the fp32 weights: Stable Diffusion 1.5 with 4.2 GB took 12.2 to 13 GB at 512 x 512."""


def check_calibration_memory(
    reference: FloatReference,
    formats: Mapping[str, Sequence[PrecisionFormat]],
    progress: Callable[[str], None] = lambda _message: None,
) -> None:
    """Refuse a calibration whose weights alone do not fit into memory, and report one that usually takes more.

    All networks that generate an image are open at once, in fp32. Their weights are the lower bound.

    Args:
        reference: The float pipeline; no engine needs to be open.
        formats: Precision to the graph formats that its targets want.
        progress: Called with a message if the memory may not be enough.

    Raises:
        InputError: It does not fit. The message names the precisions and the option that needs no images.
    """
    weights = sum(_weight_bytes(reference, name) for name in reference.components)
    subject = f"--precision {','.join(formats)}: calibration generates images with all networks in fp32, which takes"
    advice = _advice(formats)
    check_memory(weights, subject, advice)
    available = available_memory()
    if available is not None and _USUAL * weights > available:
        progress(
            f"generating images usually takes {describe_bytes(_USUAL * weights)} of memory, and this machine has "
            f"{describe_bytes(available)} available; if it is killed, {advice}"
        )


def _weight_bytes(reference: FloatReference, component: str) -> int:
    values = reference.graph(component).graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _advice(formats: Mapping[str, Sequence[PrecisionFormat]]) -> str:
    """Name the way to quantize without images, or to fewer bits without calibration, for these precisions."""
    forms = [form for some in formats.values() for form in some]
    if any(form.activations is not None for form in forms):
        return "use a larger machine, or --precision int8-weights with --no-calibration, which generates no image"
    if any(form.quantized for form in forms):
        return "use a larger machine, or pass --no-calibration, which quantizes every layer and generates no image"
    return "use a larger machine, or leave --min-psnr and --max-size out: then no layer is kept in fp32"
