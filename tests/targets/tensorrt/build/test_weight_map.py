"""The map from an engine's weights to PyTorch's parameters, against the module itself and against the real parser."""

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import in_form

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.targets.tensorrt.build.network import parse
from diffoundry.targets.tensorrt.build.target import RTXTarget
from diffoundry.targets.tensorrt.build.weight_map import refit_map


@pytest.fixture(scope="module")
def parameters(tiny_sd_checkpoint):
    """Factory: a component's state dict."""
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint()))

    def make(component):
        return {name: tensor.numpy() for name, tensor in checkpoint.load(component).state_dict().items()}

    return make


@pytest.mark.parametrize(
    ("component", "precision"), [("unet", "fp16"), ("text_encoder", "fp32"), ("vae_decoder", "bf16")]
)
def test_each_weight_is_its_parameter_after_the_transform(portable, parameters, component, precision):
    model = in_form(ir.load(portable(component)), RTXTarget().form(precision))
    weights, state = refit_map(model), parameters(component)
    assert len(weights) > 30
    for name, entry in weights.items():
        value = model.graph.initializers[name].const_value
        expected = state[entry.parameter]
        expected = expected.T if entry.transform == "transpose" else expected
        assert value.dtype.name == {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}[entry.dtype]
        np.testing.assert_array_equal(value.numpy(), expected.astype(value.dtype.numpy()), err_msg=name)


def test_no_weight_of_a_layer_is_left_out(portable, parameters):
    model = ir.load(portable("unet"))
    named = {entry.parameter for entry in refit_map(model).values()}
    assert named == set(parameters("unet"))
    assert {entry.transform for entry in refit_map(model).values()} == {"none", "transpose"}


def test_quantized_weights_are_not_in_the_map(portable):
    model = in_form(ir.load(portable("unet")), RTXTarget().form("int8"))
    weights = refit_map(model)
    quantized = {
        node.inputs[0].name
        for node in model.graph
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer()
    }
    assert len(quantized) == 132
    assert not quantized & set(weights)
    assert "conv_in.bias" in weights
    assert "conv_in.weight" not in weights


def test_the_parser_knows_every_name(rtx, portable, tmp_path):
    model = in_form(ir.load(portable("unet")), RTXTarget().form("fp16"))
    save_graph(model, tmp_path, "model.onnx")
    builder = rtx.trt.Builder(rtx.log.logger)
    network = builder.create_network(1 << int(rtx.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert parse(rtx.trt, network, rtx.log, tmp_path / "model.onnx") is None
    assert [name for name in refit_map(model) if not network.mark_weights_refittable(name)] == []
    assert not network.mark_weights_refittable("no such weight")
