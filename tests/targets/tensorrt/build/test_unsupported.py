"""Refusals before any work, each compared with the real parser."""

import numpy as np
import onnx_ir as ir
import pytest

from diffoundry.targets.tensorrt.build.job import Failure
from diffoundry.targets.tensorrt.build.network import parse
from diffoundry.targets.tensorrt.build.target import RTXTarget
from diffoundry.targets.tensorrt.build.unsupported import UNSUPPORTED_OPERATORS, unsupported

HEAD = '<ir_version: 11, opset_import: ["": 23]> g '


def model_of(text, **initializers):
    model = ir.from_onnx_text(HEAD + text)
    for value in {value for node in model.graph for value in node.inputs if value is not None}:
        if value.name in initializers:
            value.const_value = ir.tensor(initializers[value.name], name=value.name)
            value.type, value.shape = ir.TensorType(value.const_value.dtype), value.const_value.shape
            model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"the/{node.op_type}"
    return model


QDQ = "(float[2, 8] x) => (float[2, 8] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
STEP = np.array(0.1, np.float32)

REFUSED = {
    "operator": (
        model_of("(float[2, 8] x) => (uint8[2, 8] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }"),
        "node 'the/DynamicQuantizeLinear', operator 'DynamicQuantizeLinear': TensorRT has no such operator",
    ),
    "zero point": (
        model_of(QDQ, s=STEP, z=np.array(3, np.int8)),
        "node 'the/QuantizeLinear', operator 'QuantizeLinear': TensorRT has no zero points but 0; quantize symmetric",
    ),
    "antialias": (
        model_of(
            '(float[1, 3, 8, 8] x) => (float[1, 3, 4, 4] y) { y = Resize<mode="linear", antialias=1>(x, , s) }',
            s=np.array([1, 1, 0.5, 0.5], np.float32),
        ),
        "operator 'Resize': TensorRT resizes without antialiasing only",
    ),
    "int32 bias": (
        model_of(
            "(float[8] x) => (float[8] y) { d = DequantizeLinear(b, s) y = Add(x, d) }",
            s=STEP,
            b=np.arange(8, dtype=np.int32),
        ),
        "operator 'DequantizeLinear': TensorRT has no quantized biases; leave them in float",
    ),
}


def real_failure(rtx, model, path):
    ir.save(model, path)
    builder = rtx.trt.Builder(rtx.log.logger)
    network = builder.create_network(1 << int(rtx.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    rtx.log.take_errors()
    return parse(rtx.trt, network, rtx.log, path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_parser_refuses_is_said_before(rtx, tmp_path, name):
    model, message = REFUSED[name]
    assert any(message in reason for reason in unsupported(model))
    failure = real_failure(rtx, model, tmp_path / "g.onnx")
    assert isinstance(failure, Failure)
    assert failure.node.startswith("the/")
    assert failure.operator in model.graph.node(-1).op_type + model.graph.node(0).op_type


def test_unsigned_types_are_refused_because_the_parser_would_read_them_as_signed(rtx, tmp_path):
    model = model_of(QDQ, s=STEP, z=np.array(0, np.uint8))
    assert "TensorRT has no unsigned quantized types" in unsupported(model)[0]
    assert real_failure(rtx, model, tmp_path / "g.onnx") is None
    assert any("Defaulting to INT8 instead" in warning for warning in rtx.log.warnings())


def test_the_parser_takes_none_of_the_listed_operators_and_all_that_our_graphs_have(rtx, portable):
    builder = rtx.trt.Builder(rtx.log.logger)
    network = builder.create_network(0)
    parser = rtx.trt.OnnxParser(network, rtx.log.logger)
    assert [name for name in UNSUPPORTED_OPERATORS if parser.supports_operator(name)] == []
    for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
        model = ir.load(portable(component))
        assert unsupported(model) == []
        operators = {node.op_type for node in model.graph}
        assert [name for name in operators if not parser.supports_operator(name)] == []


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        ({"": 28}, "the graph needs opset 28 of ONNX, TensorRT takes up to 27"),
        ({"": 23, "acme": 1}, "the graph has operators of 'acme', TensorRT has none of them"),
    ],
)
def test_other_operator_sets_are_refused(imports, message):
    model = model_of("(float[2] x) => (float[2] y) { y = Relu(x) }")
    model.opset_imports.clear()
    model.opset_imports.update(imports)
    assert RTXTarget().unsupported(model) == [message]
