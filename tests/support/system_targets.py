"""Checks of a system's bundle in other precisions, by `verify` and `bench`, and on targets that only build here."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from coreml_interpreter.engine import InterpretedEngine
from device_precisions import requires_precision

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.bench import command as bench
from diffoundry.runtime.engines.protocol import EngineOptions

__all__ = [
    "calibrate_int8",
    "check_core_ml",
    "check_half_precision",
    "check_int8",
    "check_tensorrt_rtx",
    "check_verify",
    "measure_beside_pytorch",
]


def check_half_precision(export, settings, target, precision):
    """Check that a precision changes the latents of "a cat" by little; `settings` are arguments of the call.

    fp16 of OpenVINO is built, although few processors compute in it.
    """
    halves = ("fp16", "bf16") if target == "openvino" else ("fp16",)
    bundle = export(target=target, precision=f"fp32,{','.join(halves)}")
    requires_precision(target, precision)
    settings = {**settings, "output_type": "latent"}
    expected, given = (load(bundle, target=target, precision=one)("a cat", **settings) for one in ("fp32", precision))
    change = np.square(expected.images - given.images).mean() / np.square(expected.images).mean()
    assert 0 < np.sqrt(change) < {"fp16": 0.005, "bf16": 0.05}[precision]


def calibrate_int8(export, psnr, **sizes):
    """Return a bundle with calibrated int8 that keeps the budget in decibels; `sizes` are those of the images.

    Few training steps amplify the rounding of the first, so budgets are wide.
    """
    request = QuantizationRequest(budget=Budget(min_psnr=psnr), prompts=("cat",), held_out=("apple",), steps=4, **sizes)
    bundle = export(precision="fp32,int8", quantization=request)
    chosen = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert chosen.psnr >= psnr
    assert any(component.quantized for component in chosen.components.values())
    return bundle


def check_verify(bundle):
    """Check that every check of `verify` passes, and return the compared components of each variant."""
    report = verify(bundle, None, VerifyRequest(steps=3, guidance_scale=3.0))
    assert [check for check in report.all_checks if not check.passed] == []
    return [{result.component for result in variant.outputs} for variant in report.variants]


def measure_beside_pytorch(bundle, size):
    """Check that ONNX Runtime generates the images that PyTorch does, of this height and width, by `bench`."""
    height, width = size
    few = ["--steps=2", "--repeats=1", "--warmups=0", "--target=onnxruntime", f"--height={height}", f"--width={width}"]
    result = CliRunner().invoke(bench, [str(bundle), *few, "--json", "--against=torch-fp32"])
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)
    assert (report["work"]["height"], report["work"]["width"]) == size
    ours, torch = report["candidates"]
    assert torch["failure"] is None
    assert ours["measured"]["distance"]["psnr"] > 60


def check_int8(expected, given, psnr):
    """Check images float32 in 0..1: they differ, by no more than the budget in decibels."""
    assert 0 < np.square(expected - given).mean() < 10 ** (-psnr / 10)


def check_core_ml(bundle, integers=(0, 50)):
    """Run every component with random inputs; `integers` is the range of tokens, classes and timesteps."""
    float_pipeline, opened = load(bundle, target="onnxruntime"), Bundle(bundle)
    generator = np.random.default_rng(0)
    for component in opened.components:
        spec = next(engine for engine in opened.engines(component) if engine.target == "coreml")
        feeds = {one.name: _values(one, generator, integers) for one in spec.inputs}
        empty = {one.name: _empty(one) for one in float_pipeline.session.inputs(component) if one.name not in feeds}
        expected = float_pipeline.session.run(component, {**feeds, **empty})
        with InterpretedEngine(bundle / spec.files[0], spec, EngineOptions(device="cpu")) as engine:
            for output, array in engine.run(feeds).items():
                np.testing.assert_allclose(array, expected[output], atol=1e-4 * np.abs(expected[output]).max())


def check_tensorrt_rtx(export):
    """Check that the builder takes every component, and return their names; `export` takes the target's options."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    opened = Bundle(export(target="tensorrt-rtx", precision="fp16"))
    for component in opened.components:
        (spec,) = opened.engines(component)
        assert spec.pending is None
        assert spec.files[0].startswith(f"{component}/")
    return set(opened.components)


def _empty(spec):
    """Return an input of no tokens, which engines of one size leave out; a denoiser has two rows."""
    return np.zeros([{"batch": 2, "reference": 0}.get(size, size) for size in spec.shape], np.float32)


def _values(spec, generator, integers):
    if spec.name == "attention_mask":
        mask = generator.integers(0, 2, spec.shape).astype(spec.dtype)
        mask[:, 0] = 1  # a text has a first token
        return mask
    if spec.dtype.startswith("float") and spec.name != "timestep":
        return generator.standard_normal(spec.shape).astype(spec.dtype)
    return generator.integers(*integers, spec.shape).astype(spec.dtype)
