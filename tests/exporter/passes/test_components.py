"""The embedded model's components through every pass: the operators that are left, and PyTorch's numbers."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers
from diffusers.models.attention_processor import Attention

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.passes import OPSET, optimize, to_fp16
from diffoundry.exporter.steps.trace import trace

COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")

FOLDED = {
    "Constant",
    "Identity",
    "CastLike",
    "IsNaN",
    "Where",
    "SplitToSequence",
    "SequenceAt",
    "InstanceNormalization",
}
"""Operators of the traced graphs of which nothing may be left."""


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint("emoji")


@pytest.fixture(scope="module")
def modules(checkpoint):
    return {name: checkpoint.load(name) for name in COMPONENTS}


@pytest.fixture(scope="module")
def graphs(emoji_bundle):
    return {name: emoji_bundle / name / "model.onnx" for name in COMPONENTS}


def half_of(module, name):
    """The part of the module that is in the component: the VAE's two halves are two components."""
    if name == "vae_encoder":
        return module.encoder
    return module.decoder if name == "vae_decoder" else module


def example(module, name):
    """Inputs as they come in a pipeline."""
    noise = torch.Generator().manual_seed(0)
    if name == "text_encoder":
        ids = torch.full((2, 77), module.config.eos_token_id)
        ids[:, 0] = module.config.bos_token_id
        ids[0, 1:4] = torch.tensor([320, 736, 1929])
        return (ids.int(),)
    if name == "unet":
        states = torch.randn(2, 77, module.config.cross_attention_dim, generator=noise)
        return torch.randn(2, 4, 8, 8, generator=noise), torch.tensor([981.0]), states
    if name == "vae_encoder":
        return (torch.rand(2, 3, 64, 64, generator=noise) * 2 - 1,)
    return (torch.randn(2, 4, 8, 8, generator=noise),)


def reference(module, name, feeds):
    with torch.no_grad():
        if name == "text_encoder":
            given = module(feeds[0].long(), output_hidden_states=True)
            states = module.final_layer_norm(torch.stack(given.hidden_states[:-1], dim=1))
            return [given.last_hidden_state.numpy(), given.pooler_output.numpy(), states.numpy()]
        if name == "unet":
            return [module(feeds[0], feeds[1], encoder_hidden_states=feeds[2]).sample.numpy()]
        if name == "vae_encoder":
            return [module.encode(feeds[0]).latent_dist.parameters.numpy()]
        return [module.decode(feeds[0]).sample.numpy()]


def run(path, feeds, *, optimized=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, feeds, strict=True)})


def psnr(expected, got):
    return 10 * np.log10(np.ptp(expected) ** 2 / np.mean((expected - got) ** 2))


def operators(path_or_model):
    model = path_or_model if isinstance(path_or_model, ir.Model) else ir.load(path_or_model)
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_layer_is_one_operator(graphs, modules, name):
    found = operators(graphs[name])
    layers = list(half_of(modules[name], name).modules())
    attention = (Attention, transformers.models.clip.modeling_clip.CLIPAttention)
    assert found["Attention"] == sum(isinstance(layer, attention) for layer in layers) > 0
    assert found["GroupNormalization"] == sum(isinstance(layer, torch.nn.GroupNorm) for layer in layers)
    norms = sum(isinstance(layer, torch.nn.LayerNorm) for layer in layers)
    assert found["LayerNormalization"] == norms + (name == "text_encoder"), "the last norm runs on earlier states too"
    assert not FOLDED & set(found)


@pytest.mark.parametrize("name", COMPONENTS)
def test_pytorchs_numbers(graphs, modules, name):
    feeds = example(modules[name], name)
    for expected, got in zip(reference(modules[name], name, feeds), run(graphs[name], feeds), strict=True):
        # fp32 on both sides, sums in different orders: some 1e-6 of the value were seen, values are up to 7.
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_standards_checker_and_no_path_of_this_machine(graphs, name):
    onnx.checker.check_model(str(graphs[name]), full_check=True)
    content = graphs[name].read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[3]).encode() not in content


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_second_time_changes_nothing(graphs, name):
    model = ir.load(graphs[name])
    before = operators(model)
    assert operators(optimize(model)) == before


def test_the_text_encoders_mask_is_causal_and_gone(graphs):
    for node in ir.load(graphs["text_encoder"]).graph:
        if node.op_type == "Attention":
            assert node.attributes["is_causal"].as_int() == 1
            assert [value for value in node.inputs[3:] if value is not None] == []


@pytest.mark.parametrize(
    ("name", "lowest"), [("text_encoder", 75), ("unet", 75), ("vae_encoder", 75), ("vae_decoder", 75)]
)
def test_half_precision_is_near(graphs, modules, tmp_path, name, lowest):
    """Decibels; 83 to 119 were seen. Half precision has 11 bits, 66 dB for one rounding of a full-range number."""
    model = to_fp16(ir.load(graphs[name]))
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} <= {
        ir.DataType.FLOAT,
        ir.DataType.INT32,
    }
    ir.save(model, tmp_path / "half.onnx", external_data="half.onnx_data")
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    whole = sum(file.stat().st_size for file in graphs[name].parent.glob("model.onnx*"))
    assert size < 0.6 * whole
    feeds = example(modules[name], name)
    for expected, got in zip(reference(modules[name], name, feeds), run(tmp_path / "half.onnx", feeds), strict=True):
        assert psnr(expected, got) > 75


def test_attention_that_a_module_spells_out(checkpoint, modules):
    """transformers' "eager" attention, as matrix products and a softmax."""
    config = modules["text_encoder"].config.__class__.from_dict(modules["text_encoder"].config.to_dict())
    eager = transformers.CLIPTextModel._from_config(config, attn_implementation="eager").float().eval()
    graph = trace(eager, checkpoint.component("text_encoder"), opset=OPSET)
    assert operators(graph)["Softmax"] > 0
    found = operators(optimize(graph))
    assert found["Softmax"] == 0
    assert found["Attention"] == config.num_hidden_layers
    assert not {"Where", "LessOrEqual"} & set(found)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), options)
    feeds = example(eager, "text_encoder")
    got = session.run(None, {"input_ids": feeds[0].numpy()})
    np.testing.assert_allclose(got[0], reference(eager, "text_encoder", feeds)[0], rtol=2e-5, atol=2e-5)
