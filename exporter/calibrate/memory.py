"""Memory that calibration takes, from the sizes of the graphs, before an engine is opened."""

from collections.abc import Mapping, Sequence

from diffoundry.exporter.calibrate.float_reference import FloatReference
from diffoundry.exporter.calibrate.simulator import PART_BYTES
from diffoundry.exporter.calibrate.split_graph import weight_bytes, weights_of_nodes
from diffoundry.runtime.engines.available_memory import check_memory
from diffoundry.targets.base import PrecisionFormat

__all__ = ["check_calibration_memory"]


def check_calibration_memory(reference: FloatReference, formats: Mapping[str, Sequence[PrecisionFormat]]) -> None:
    """Refuse a calibration whose weights alone do not fit into memory.

    Small networks are open at once, in fp32; of large ones the weights of one part are in memory at a time. That is the
    lower bound: what the networks compute comes on top, and most of it in the decoder of a large image.

    Args:
        reference: The float pipeline; no engine needs to be open.
        formats: Precision to the graph formats that its targets want.

    Raises:
        InputError: It does not fit. The message names the precisions and the option that needs no images.
    """
    sizes = {name: weight_bytes(reference.graph(name)) for name in reference.components}
    large = [name for name in sizes if reference.runs_in_parts(name)]
    parts = [max(PART_BYTES, *weights_of_nodes(reference.graph(name))) for name in large]
    needed = sum(sizes[name] for name in sizes if name not in large) + max(parts, default=0)
    subject = f"--precision {','.join(formats)}: calibration generates images with all networks in fp32, which takes"
    check_memory(needed, subject, _advice(formats))


def _advice(formats: Mapping[str, Sequence[PrecisionFormat]]) -> str:
    """Name the way to quantize without images, or to fewer bits without calibration, for these precisions."""
    forms = [form for some in formats.values() for form in some]
    if any(form.activations is not None for form in forms):
        return "use a larger machine, or --precision int8-weights with --no-calibration, which generates no image"
    if any(form.quantized for form in forms):
        return "use a larger machine, or pass --no-calibration, which quantizes every layer and generates no image"
    return "use a larger machine, or leave --min-psnr and --max-size out: then no layer is kept in fp32"
