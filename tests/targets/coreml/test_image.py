"""The whole image by interpreted packages, against the same by ONNX Runtime in fp32."""

import numpy as np
import pytest

from diffoundry.runtime import load

WAYS = {
    # name: (precision, options, lowest dB); each gate is above what the next coarser way gives
    "fp32": ("fp32", {}, 110),
    "fp16": ("fp16", {}, 62),
    "fp16, Swift's layout, Neural Engine, chunks": (
        "fp16", {"layout": "swift", "neural_engine": True, "chunks": 2}, 62),
    "palette of 8 bits": ("fp16", {"palette": "8"}, 50),
    "int8 weights": ("int8-weights", {"deployment_target": "iOS16"}, 46),
    "int8 weights, iOS17": ("int8-weights", {}, 46),
    "palette of 6 bits": ("fp16", {"palette": "6", "deployment_target": "iOS18"}, 36),
    "palette of 6 bits, iOS17": ("fp16", {"palette": "6"}, 36),
    "int4 weights": ("int4-weights", {"deployment_target": "iOS18"}, 27),
    "palette of 4 bits": ("fp16", {"palette": "4"}, 27),
    "palette of the recipe": ("int4-weights", {"palette": "recipe"}, 27),
    "int8": ("int8", {}, 21),
}  # fmt: skip
"""int8 here is every layer with ranges over two calls on noise; calibration keeps more."""

SLOW = (
    "fp16",
    "fp16, Swift's layout, Neural Engine, chunks",
    "int8",
    "int8 weights",
    "palette of 6 bits",
    "palette of 8 bits",
    "int8 weights, iOS17",
    "palette of 6 bits, iOS17",
    "int4 weights",
    "palette of 4 bits",
    "palette of the recipe",
)

COMPONENTS = ("text_encoder", "unet", "vae_decoder")


@pytest.fixture(scope="module")
def generate(bundle_of):
    """Factory: the array (64, 64, 3) of an apple, by the bundle's own engines except those passed in."""

    def make(engines=None):
        pipeline = load(bundle_of("emoji"))
        pipeline.session._engines.update(engines or {})
        run = pipeline("a red apple", seed=0, num_inference_steps=8, guidance_scale=4.0, output_type="np")
        return run.images[0]

    return make


@pytest.fixture(scope="module")
def expected(generate):
    """Image of the fp32 engines."""
    return generate()


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] if way in SLOW else []) for way in WAYS])
def test_the_image_is_fp32s(lowered, open_engine, generate, expected, psnr, way):
    precision, options, lowest = WAYS[way]
    engines = {name: open_engine(lowered("emoji", name, precision, **options)) for name in COMPONENTS}
    got = generate(engines)
    assert got.shape == (64, 64, 3)
    assert np.ptp(got) > 0.5, "an image and no plane"
    decibels = psnr(expected / np.ptp(expected), got / np.ptp(expected))
    assert decibels > lowest
