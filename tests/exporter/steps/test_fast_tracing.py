"""Shortcuts of tracing: the graph is the one that torch makes without them."""

from contextlib import nullcontext

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint
from diffoundry.exporter.passes import OPSET, optimize
from diffoundry.exporter.steps import trace as trace_module
from diffoundry.exporter.steps.decomposition import without_decomposition
from diffoundry.exporter.steps.fast_tracing import fast_tracing
from diffoundry.exporter.steps.trace import trace


@pytest.fixture(scope="module", params=["sd1-small", pytest.param("sd1", marks=pytest.mark.slow)])
def checkpoint(request, tiny_sd_checkpoint):
    """A tiny checkpoint built like Stable Diffusion 1."""
    return Checkpoint.at(tiny_sd_checkpoint(request.param), name="tiny")


def _shape_of(graph):
    """Operators with their attributes and the places of their inputs, whatever the tensors are called."""
    places = {value: ("input", index) for index, value in enumerate(graph.graph.inputs)}
    described = []
    for index, node in enumerate(graph.graph):
        inputs = [places.get(value, value and value.name) for value in node.inputs]
        attributes = sorted((name, str(attribute)) for name, attribute in node.attributes.items())
        shapes = [str(value.shape) for value in node.outputs]
        described.append((node.op_type, inputs, attributes, shapes))
        places |= {value: (index, place) for place, value in enumerate(node.outputs)}
    return described, [places[value] for value in graph.graph.outputs]


@pytest.mark.slow_cases("sd1-small-unet")
@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("text_encoder", "vae_decoder"))]
)
def test_the_graph_is_the_same(checkpoint, name, monkeypatch):
    module, component = checkpoint.load(name), checkpoint.component(name)
    fast = optimize(trace(module, component, opset=OPSET))
    for shortcuts in ("fast_recording", "fast_tracing"):
        monkeypatch.setattr(trace_module, shortcuts, nullcontext)
    plain = optimize(trace(module, component, opset=OPSET))
    assert _shape_of(fast) == _shape_of(plain)
    weights = [
        {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()} for graph in (fast, plain)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(array, weights[1][name]) for name, array in weights[0].items())


class _Mixed(torch.nn.Module):
    """Operators that promote types: whole numbers with floats, and half with single precision."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.GroupNorm(2, 4)

    def forward(self, x, steps):
        halves = steps.to(torch.float16)
        return self.norm(x * steps[:, None, None] + 2) / 3, halves * x[:, 0, 0] - 1.5 * steps


def test_types_are_promoted_as_in_torch():
    module = _Mixed().eval()
    x, steps = torch.randn(3, 4, 5), torch.tensor([1, 20, 300])
    dims = {"x": {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}, "steps": {0: torch.export.Dim.DYNAMIC}}
    with fast_tracing(), torch.no_grad():
        program = torch.export.export(module, (x, steps), dynamic_shapes=dims)
        model = torch.onnx.export(program, opset_version=OPSET, optimize=False, verbose=False).model
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    for rows, size in ((3, 5), (2, 9)):
        feeds = torch.randn(rows, 4, size), torch.randint(1, 1000, (rows,))
        names = [value.name for value in session.get_inputs()]
        given = session.run(None, {name: feed.numpy() for name, feed in zip(names, feeds, strict=True)})
        with torch.no_grad():
            expected = module(*feeds)
        for array, tensor in zip(given, expected, strict=True):
            assert array.dtype == tensor.numpy().dtype
            np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": (3, 4), "stride": (1, 2), "padding": (1, 2), "bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2},
    ],
)
def test_transposed_convolutions_are_translated_without_a_second_tracing(options, monkeypatch):
    """As the UNet of Kandinsky 3 has them. A large network would be traced twice for one of them."""
    module, x = torch.nn.ConvTranspose2d(4, 6, **options).eval(), torch.randn(2, 4, 5, 7)
    dims = {"input": {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}}
    with fast_tracing(), torch.no_grad():
        program = torch.export.export(module, (x,), dynamic_shapes=dims)
        monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", lambda *_: pytest.fail("traced again"))
        with without_decomposition(program):
            model = torch.onnx.export(program, opset_version=OPSET, optimize=False, verbose=False).model
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    feed = torch.randn(3, 4, 6, 7)
    (given,) = session.run(None, {session.get_inputs()[0].name: feed.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(given, module(feed).numpy(), rtol=1e-5, atol=1e-5)
