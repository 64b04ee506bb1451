"""Compressed weights, in the forms of every deployment target: values, sizes, and what is refused."""

import coremltools as ct
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from coreml_interpreter.run import Interpreter
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.runtime.errors import ConfigError, EngineError, InputError
from diffoundry.targets.base import Lowering
from diffoundry.targets.coreml.build.package import write_package
from diffoundry.targets.coreml.build.program import make_program, refusals
from diffoundry.targets.coreml.build.recipe_palette import recipe_palette
from diffoundry.targets.coreml.build.target import CoreMlTarget
from diffoundry.targets.coreml.build.translation import PALETTE_KEY, Style

COMPRESSED = {
    # name: (precision, options, lowest dB, largest part of the size in half precision)
    "int8-weights": ("int8-weights", {}, 50, 0.58),
    "int8-weights iOS16": ("int8-weights", {"deployment_target": "iOS16"}, 50, 0.58),
    "int8-weights iOS18": ("int8-weights", {"deployment_target": "iOS18"}, 50, 0.58),
    "int4-weights iOS18": ("int4-weights", {"deployment_target": "iOS18"}, 28, 0.37),
    "palette 8": ("fp16", {"palette": "8"}, 52, 0.58),
    "palette 6 iOS16": ("fp16", {"palette": "6", "deployment_target": "iOS16"}, 40, 0.46),
    "palette 6 iOS18": ("fp16", {"palette": "6", "deployment_target": "iOS18"}, 40, 0.46),
    "palette 4": ("fp16", {"palette": "4"}, 28, 0.33),
    "palette 4 iOS18": ("fp16", {"palette": "4", "deployment_target": "iOS18"}, 28, 0.33),
    "palette 6, neural engine": ("fp16", {"palette": "6", "neural_engine": True}, 40, 0.46),
    "palette of the recipe": ("int4-weights", {"palette": "recipe"}, 28, 0.35),
}

SLOW = (
    "int8-weights",
    "int8-weights iOS18",
    "int8-weights iOS16",
    "int4-weights iOS18",
    "palette 8",
    "palette 6 iOS16",
    "palette 6 iOS18",
    "palette 6, neural engine",
    "palette 4",
    "palette 4 iOS18",
)
"""The test of the recipe has palettes and layers in eight bits."""

STORED = {
    "int8-weights": "constexpr_affine_dequantize",
    "int8-weights iOS16": "constexpr_affine_dequantize",
    "int8-weights iOS18": "constexpr_blockwise_shift_scale",
    "int4-weights iOS18": "constexpr_blockwise_shift_scale",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in COMPRESSED]
)
def test_the_denoiser_with_compressed_weights(lowered, open_engine, torch_outputs, make_feeds, psnr, name):
    precision, options, lowest, largest = COMPRESSED[name]
    made, half = lowered("emoji", "unet", precision, **options), lowered("emoji", "unet", "fp16")
    feeds = make_feeds(made.spec.inputs)
    expected = torch_outputs("emoji", "unet", feeds)["out_sample"]
    with open_engine(made) as engine:
        decibels = psnr(expected, engine.run(feeds)["out_sample"])
    assert decibels > lowest
    assert made.size < largest * half.size
    weights = STORED.get(name, "constexpr_lut_to_dense")
    compressed = {kind: count for kind, count in made.operators().items() if kind.startswith("constexpr_")}
    assert set(compressed) == {weights}
    assert compressed[weights] > 140, "all layers of 2048 weights and more"


@pytest.mark.slow_cases("*vae_*")
@pytest.mark.parametrize("component", ["text_encoder", "vae_encoder", "vae_decoder"])
def test_the_other_components_with_palettes(lowered, open_engine, torch_outputs, make_feeds, psnr, component):
    made = lowered("emoji", component, "fp16", palette="6", deployment_target="iOS18")
    feeds = make_feeds(made.spec.inputs)
    with open_engine(made) as engine:
        outputs = engine.run(feeds)
    for name, expected in torch_outputs("emoji", component, feeds).items():
        assert psnr(expected, outputs[name]) > 40


@pytest.mark.slow
def test_bits_by_node(lowered, bundle_of):
    """The recipe's choice: 4 bits here, 8 there, floats elsewhere, each from the weights before quantization."""
    made = lowered("emoji", "unet", "int4-weights", palette="recipe")
    quantized, portable = ir.load(made.graph), ir.load(bundle_of("emoji") / "unet/model.onnx")
    count = recipe_palette(quantized, bundle_of("emoji") / "unet/model.onnx")
    originals = {node.name: node for node in portable.graph}
    assert count > 140
    marked = [node for node in quantized.graph if PALETTE_KEY in node.metadata_props]
    assert len(marked) == count
    for node in marked:
        np.testing.assert_array_equal(
            node.inputs[1].const_value.numpy(), originals[node.name].inputs[1].const_value.numpy().astype(np.float16)
        )


def test_a_weight_that_was_changed_before_is_left_alone(lowered, bundle_of, tmp_path):
    """SmoothQuant's factors and branches of low rank make another weight than the portable graph's."""
    made = lowered("emoji", "unet", "int4-weights", palette="recipe")
    portable = ir.load(bundle_of("emoji") / "unet/model.onnx")
    node = next(node for node in portable.graph if node.op_type == "MatMul")
    weight = node.inputs[1]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.5), name=weight.name)
    ir.save(portable, tmp_path / "model.onnx", external_data="model.onnx_data")
    quantized = ir.load(made.graph)
    count = recipe_palette(quantized, tmp_path / "model.onnx")
    same = next(other for other in quantized.graph if other.name == node.name)
    assert same.inputs[1].producer().op_type == "DequantizeLinear"
    assert PALETTE_KEY not in same.metadata_props
    assert count == len([n for n in quantized.graph if PALETTE_KEY in n.metadata_props]) > 140


QDQ = """
<ir_version: 10, opset_import: ["": 23]>
g (float[2,6,8,8] x) => (float[2,4,8,8] y)
<float xs = {0.04}, %s xz = {%s}, %s[4,6,1,1] w = {%s}, float[4] ws = {0.1, 0.2, 0.3, 0.05}, %s[4] wz = {%s}>
{
    q = QuantizeLinear(x, xs, xz)
    d = DequantizeLinear(q, xs, xz)
    e = DequantizeLinear<axis = 0>(w, ws, wz)
    y = Conv(d, e)
}
"""


def qdq(activations, weights, zero=0, shifts="0, 0, 0, 0"):
    low = 0 if weights == "uint8" else -12
    numbers = ", ".join(str(low + number) for number in range(24))
    model = ir.from_onnx_text(QDQ % (activations, zero, weights, numbers, weights, shifts))
    ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
@pytest.mark.parametrize(
    ("activations", "weights", "zero", "shifts"),
    [
        ("int8", "int8", 0, "0, 0, 0, 0"),
        ("uint8", "int8", 131, "0, 0, 0, 0"),
        ("uint8", "uint8", 3, "1, 0, 7, 12"),
    ],
)
def test_activations_and_weights_in_eight_bits(tmp_path, target, activations, weights, zero, shifts):
    model = qdq(activations, weights, zero, shifts)
    opset = ct.target[target]
    assert refusals(model, opset) == []
    program = make_program(model, Style(opset=opset, attention="decomposed"), swift=False)
    write_package(program, tmp_path / "p.mlpackage", opset, {})
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 6, 8, 8)).astype(np.float32)}
    run = Interpreter(tmp_path / "p.mlpackage").run(feeds)
    proto = ir.to_proto(qdq(activations, weights, zero, shifts)).SerializeToString()
    (expected,) = onnxruntime.InferenceSession(proto).run(None, feeds)
    np.testing.assert_allclose(run.outputs["y"], expected, rtol=1e-5, atol=1e-5)
    assert run.counts == {"quantize": 1, "dequantize": 1, "conv": 1}


@pytest.mark.slow
def test_the_denoiser_in_eight_bits(lowered, open_engine, torch_outputs, make_feeds, psnr):
    """Every activation of every layer rounded, from ranges over two calls on noise; calibration chooses better."""
    made = lowered("emoji", "unet", "int8")
    feeds = make_feeds(made.spec.inputs)
    with open_engine(made) as engine:
        decibels = psnr(torch_outputs("emoji", "unet", feeds)["out_sample"], engine.run(feeds)["out_sample"])
    assert decibels > 25
    counts = made.operators()
    assert counts["quantize"] == counts["dequantize"] > 100
    assert counts["constexpr_affine_dequantize"] > 140


@pytest.mark.parametrize(
    ("options", "precision", "message"),
    [
        ({"deployment_target": "iOS16"}, "int8", "'int8' with coreml's deployment target iOS16, expected iOS17"),
        ({}, "int4-weights", "'int4-weights' with coreml's deployment target iOS17, expected iOS18.* --palette recipe"),
        ({"palette": "recipe"}, "fp16", "'fp16' with coreml's palette 'recipe', expected int8-weights or int4-weights"),
        ({"palette": "recipe"}, "int8", "'int8' with coreml's palette 'recipe', expected int8-weights"),
        ({"palette": "6"}, "int8-weights", "'int8-weights' with coreml's palette '6', expected fp16 or fp32"),
        ({}, "bf16", "got 'bf16', expected one of fp16, fp32, int8, int8-weights, int4-weights for target 'coreml'"),
    ],
)
def test_precisions_that_an_option_forbids(options, precision, message):
    with pytest.raises(InputError, match=message):
        CoreMlTarget(**options).form(precision)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deployment_target": "iOS15"}, "'deployment_target': got 'iOS15', expected one of 'iOS16', 'iOS17', 'iOS18'"),
        ({"layout": "nhwc"}, "'layout': got 'nhwc', expected one of 'diffusers', 'swift'"),
        ({"attention": "flash"}, "'attention': got 'flash', expected one of 'auto', 'fused'"),
        ({"chunks": 3}, "'chunks': got 3, expected one of 1, 2"),
        ({"palette": "5"}, "'palette': got '5', expected one of 'none', '4', '6', '8', 'recipe'"),
        ({"attention": "fused"}, "'attention': got 'fused' for iOS17, expected iOS18"),
        ({"attention": "decomposed", "neural_engine": True}, "'decomposed' with neural_engine, expected split-einsum"),
        ({"sequence": 0}, "'sequence': got 0, expected at least 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        CoreMlTarget(**options)


@pytest.mark.slow
def test_weights_that_a_target_cannot_store_are_refused_with_the_node(lowered):
    made = lowered("emoji", "unet", "int4-weights", deployment_target="iOS18")
    work = Lowering(
        component="unet",
        role="denoiser",
        graph=made.graph,
        bundle=made.bundle,
        precision="int4-weights",
        buckets=((64, 64),),
    )
    with pytest.raises(EngineError, match=r"cannot take .*: DequantizeLinear '.*' has weights of 4 bits .* iOS18"):
        CoreMlTarget().lower(work)
