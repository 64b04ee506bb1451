"""Checks of a system's bundle for int8, and on targets that run here by an interpreter or a builder alone."""

import numpy as np
import pytest
from coreml_interpreter.engine import InterpretedEngine

from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.protocol import EngineOptions

__all__ = ["check_core_ml", "check_int8", "check_tensorrt_rtx"]


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
        expected = float_pipeline.session.run(component, feeds)
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


def _values(spec, generator, integers):
    if spec.name == "attention_mask":
        mask = generator.integers(0, 2, spec.shape).astype(spec.dtype)
        mask[:, 0] = 1  # a text has a first token
        return mask
    if spec.dtype.startswith("float") and spec.name != "timestep":
        return generator.standard_normal(spec.shape).astype(spec.dtype)
    return generator.integers(*integers, spec.shape).astype(spec.dtype)
