"""The table of types and GPUs, every cell put before the real builder of TensorRT for RTX."""

import re

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from diffoundry.targets.tensorrt.build.job import BuildJob
from diffoundry.targets.tensorrt.build.worker import build
from diffoundry.targets.tensorrt.gpu_types import RTX_TYPES, TENSORRT_TYPES, native_precisions, refusals
from diffoundry.targets.tensorrt.message_log import make_monitor
from diffoundry.targets.tensorrt.sdk import RTX

_PLAIN = {"fp32": ("float", ir.DataType.FLOAT), "fp16": ("float16", ir.DataType.FLOAT16)}
_PLAIN["bf16"] = ("bfloat16", ir.DataType.BFLOAT16)

_QUANTIZED = {"int8": np.int8, "fp8": ml_dtypes.float8_e4m3fn, "int4": ml_dtypes.int4}


def product(kind):
    """A matrix product of 64 x 64 in a type, quantized types in a float16 graph."""
    word, float_type = _PLAIN.get(kind, _PLAIN["fp16"])
    lines = [f'<ir_version: 11, opset_import: ["": 23]> g ({word}[2, 64] x, {word}[64, 64] w) => ({word}[2, 64] y) {{']
    inside = "y = MatMul(x, w) }"
    if kind in ("int8", "fp8"):
        inside = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear<axis=1>(n, t)"
        inside += " y = MatMul(d, e) }"
    elif kind == "int4":
        inside = "e = DequantizeLinear<axis=0, block_size=32>(n, b) y = MatMul(x, e) }"
    model = ir.from_onnx_text("\n".join([*lines, inside]))
    given = {"w": np.eye(64, dtype=float_type.numpy())}
    if kind in _QUANTIZED:
        narrow = _QUANTIZED[kind]
        given |= {
            "n": np.eye(64).astype(narrow),
            "s": np.array(0.1, np.float16),
            "z": np.array(0, narrow),
            "t": np.full(64, 0.1, np.float16),
            "b": np.full((2, 64), 0.1, np.float16),
        }
    model.graph.inputs.pop(1)
    for value in {value for node in model.graph for value in node.inputs if value.producer() is None}:
        if value.name in given:
            value.const_value = ir.tensor(given[value.name], name=value.name)
            model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize("kind", RTX_TYPES)
@pytest.mark.parametrize("capability", RTX.compute_capabilities)
def test_the_builder_agrees_with_the_table(rtx, tmp_path, kind, capability):
    graph = tmp_path / "g.onnx"
    ir.save(product(kind), graph)
    job = BuildJob(
        target="tensorrt-rtx",
        graph=str(graph),
        plan=str(tmp_path / "g.plan"),
        profiles=(),
        compute_capabilities=(capability,),
    )
    rtx.log.take_errors()
    result = build(job, rtx.trt, rtx.log, make_monitor(rtx.trt, lambda *_: None, lambda: False))
    expected = refusals([kind], [capability], RTX_TYPES)
    assert (result.failure is None) == (not expected), result.failure
    if expected:
        assert re.search(rf"Cannot compile (for target\(s\) sm|.*\(SM){capability}", result.failure.message)
        assert "--compute-capabilities" in result.failure.hint


def test_the_gpus_are_those_that_the_library_has_words_for(rtx):
    words = rtx.trt.ComputeCapability.__members__
    assert {f"SM{capability}" for capability in RTX.compute_capabilities} == set(words) - {"NONE", "CURRENT"}
    assert all(RTX.runs_on(capability) for capability in RTX.compute_capabilities)
    assert not any(RTX.runs_on(capability) for capability in (70, 87, 90, 100, 103))


def test_refusals_name_the_gpus_and_the_first_that_can():
    sentence = "sm75, sm86 cannot compute in fp8, which takes sm89 or later"
    assert refusals(["fp16", "fp8"], [75, 86, 89], RTX_TYPES) == [sentence]
    assert refusals(["fp16", "int8"], [75, 121], RTX_TYPES) == []


def test_native_precisions_are_those_whose_types_a_gpu_has():
    assert native_precisions(75, TENSORRT_TYPES) == ("int8", "fp16", "int8-weights", "fp32")
    assert "fp32" not in native_precisions(75, RTX_TYPES)
    assert "fp8" not in native_precisions(86, RTX_TYPES)
    assert native_precisions(89, RTX_TYPES)[0] == "fp8"
