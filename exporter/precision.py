"""The portable graph in the form that a target wants for a precision."""

from pathlib import Path

import onnx_ir as ir

from diffoundry.exporter.passes.half_precision import HalfPrecision, KeepList
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.quantization import ComponentChoice, QuantizationChoice
from diffoundry.targets.base import GraphForm

__all__ = ["make_graph"]

_DTYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def make_graph(
    model: ir.Model, form: GraphForm, choice: QuantizationChoice | None, bundle: Path, component: str
) -> ir.Model:
    """Bring a component's portable graph into another form, in place.

    Args:
        model: The fp32 graph as `optimize` left it.
        form: What the target wants.
        choice: What calibration chose for the precision, or None for everything that can be converted without ranges.
        bundle: Folder with the ranges, `calibration/<component>.json`.
        component: Whose graph it is.

    Returns:
        The same graph.
    """
    mine = ComponentChoice() if choice is None else choice.components.get(component, ComponentChoice())
    if form.quantized:
        raise InputError(
            f"graph form: got {form.label}, expected one without quantized weights; choose another precision"
        )
    if form.floats != "fp32":
        keep = KeepList(nodes=frozenset(mine.kept))
        model = HalfPrecision(dtype=_DTYPES[form.floats], keep=keep)(model).model
    return model
