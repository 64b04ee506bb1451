"""Every kind of UNet through every target, in each precision, against PyTorch."""

import dataclasses

import onnx_ir as ir
import pytest
from coreml_interpreter.engine import InterpretedEngine
from lowered_networks import lower
from traced_networks import call_network, describe, feeds_of, portable_graph, relative_error
from unet_kinds import UNET_2D_KINDS, UNET_KINDS

pytestmark = pytest.mark.slow

KINDS = {**UNET_KINDS, **UNET_2D_KINDS}

GATES = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.15}
"""Largest errors, relative to the RMS; seen were 3e-6, 1.2e-3 and 0.08."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A traced network, its inputs at two sizes, and PyTorch's answers; the first size is that of fixed engines."""

    component: object
    graph: ir.Model
    bucket: tuple[int, int]
    feeds: list[dict]
    expected: list


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    kind = KINDS[request.param]
    network = kind.make()
    component = describe(kind.kind, network, **kind.neighbours)
    factor = component.example["height"] // component.example[component.inputs[0].shape[2]]
    sizes = [{"batch": 2, "sequence": 77, "height": side * factor, "width": 8 * factor} for side in (8, 12)]
    feeds = [feeds_of(component, **size) for size in sizes]
    return Case(
        component,
        portable_graph(network, component),
        (sizes[0]["height"], sizes[0]["width"]),
        feeds,
        [call_network(network, one) for one in feeds],
    )


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_engines_of_any_size(case, target, tmp_path):
    precisions = {"onnxruntime": ["fp32", "fp16", "int8"], "openvino": ["fp32", "int8"]}[target]
    for precision in precisions:
        made = lower(case.graph, case.component, tmp_path / precision, target, precision, feeds=case.feeds[0])
        # Ranges are those of the first inputs.
        for feeds, expected in list(zip(case.feeds, case.expected, strict=True))[: 1 if precision == "int8" else 2]:
            assert relative_error(made.run(feeds)["out_sample"], expected) < GATES[precision], precision


@pytest.mark.parametrize(("precision", "options"), [("fp32", {}), ("fp16", {"neural_engine": True})], ids=str)
def test_core_ml_in_the_interpreter(case, tmp_path, precision, options):
    feeds, expected = case.feeds[0], case.expected[0]
    made = lower(
        case.graph, case.component, tmp_path / "it", "coreml", precision, feeds=feeds, bucket=case.bucket, **options
    )
    assert relative_error(made.run(feeds, InterpretedEngine)["out_sample"], expected) < GATES[precision]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_for_rtx_builds_it(case, tmp_path, precision):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    made = lower(
        case.graph,
        case.component,
        tmp_path / "it",
        "tensorrt-rtx",
        precision,
        feeds=case.feeds[0],
        bucket=case.bucket,
        compute_capabilities=("sm89",),
    )
    assert made.spec.pending is None
    assert made.spec.metadata["attentions"] == sum(node.op_type == "Attention" for node in case.graph.graph)
