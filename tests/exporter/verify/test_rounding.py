"""PyTorch's own rounding, measured against its networks in float64, and group norms of portable graphs."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.verify import VerifyProgress
from diffoundry.exporter.verify.checks.portable_engine import PortableEngine
from diffoundry.exporter.verify.reference import rounding
from diffoundry.exporter.verify.reference.pipeline_trace import generate_reference
from diffoundry.exporter.verify.reference.rounding import RoundingYardstick
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.engines.protocol import EngineOptions

SETTINGS = Settings(
    prompts=("red apple",), seeds=(0,), steps=2, guidance_scale=7.5, height=16, width=16,
    arguments={"num_inference_steps": 2, "guidance_scale": 7.5},
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tiny_sd_checkpoint):
    return open_checkpoint(str(tiny_sd_checkpoint("sd1-least")))


@pytest.fixture(scope="module")
def trace(checkpoint):
    return generate_reference(reference_pipeline(checkpoint), "red apple", 0, SETTINGS, lambda *_: None)


def test_rounding_is_that_of_networks_in_float64(checkpoint, trace, monkeypatch):
    """The same run by hand, with a UNet whose inputs and outputs are cast around it."""
    yardstick = RoundingYardstick(checkpoint, SETTINGS, VerifyProgress())
    found = yardstick.measure(trace)
    pipeline = reference_pipeline(checkpoint)
    unet = pipeline.unet.double()
    call = unet.forward

    def forward(sample, timestep, encoder_hidden_states, **_):
        return [call(sample.double(), timestep, encoder_hidden_states.double()).sample.float()]

    unet.forward = forward
    monkeypatch.setattr(type(unet), "dtype", torch.float32)
    exact = generate_reference(pipeline, "red apple", 0, SETTINGS, lambda *_: None)
    errors = [
        np.abs(ours - theirs).max() / np.sqrt(np.mean(np.square(ours)))
        for ours, theirs in zip(trace.latents, exact.latents, strict=True)
    ]
    assert found == pytest.approx(np.maximum.accumulate(errors), rel=1e-3)
    assert 1e-8 < found[-1] < 1e-4
    monkeypatch.setattr(rounding, "reference_pipeline", None)
    assert yardstick.measure(trace) is found, "a trace is run once for all variants"


def test_rounding_is_not_measured_where_memory_is_short(checkpoint, trace, monkeypatch):
    monkeypatch.setattr(rounding, "available_memory", lambda: 1000)
    assert RoundingYardstick(checkpoint, SETTINGS, VerifyProgress()).measure(trace) is None


def test_group_norms_of_portable_graphs_keep_the_variance(tmp_path):
    """ONNX Runtime's own expansion loses most digits of a group whose mean is large."""
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    g (float[batch, 4, height, width] x, float[4] scale, float[4] bias) => (float[batch, 4, height, width] y)
    { y = GroupNormalization <num_groups = 2> (x, scale, bias) }
    """
    model = ir.from_onnx_text(text)
    for name, numbers in (("scale", np.float32([1, 2, 3, 4])), ("bias", np.float32([0, 0, 1, 1]))):
        value = next(one for one in model.graph.inputs if one.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(numbers, name=name)
        model.graph.register_initializer(value)
    path = tmp_path / "model.onnx"
    ir.save(model, path, external_data="model.onnx_data", size_threshold_bytes=0)
    assert (tmp_path / "model.onnx_data").stat().st_size > 0
    x = np.random.default_rng(0).standard_normal((2, 4, 24, 16), dtype=np.float32) + np.float32(300)
    weights = (torch.tensor([1.0, 2, 3, 4]).double(), torch.tensor([0.0, 0, 1, 1]).double())
    exact = torch.nn.functional.group_norm(torch.from_numpy(x).double(), 2, *weights).numpy()
    with PortableEngine(path, None, EngineOptions(threads=1)) as engine:
        (found,) = engine.run({"x": x}).values()
    np.testing.assert_allclose(found, exact, atol=2e-5)
