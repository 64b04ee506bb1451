"""Stable Cascade and Würstchen in half precision and calibrated int8, for Core ML and for TensorRT for RTX."""

import json
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner
from system_targets import calibrate_int8, check_core_ml, check_tensorrt_rtx, check_verify
from tiny_cascade import CHANNELS, make_cascade_decoder, make_cascade_prior
from tiny_wuerstchen import make_wuerstchen_decoder, make_wuerstchen_prior

from diffoundry.runtime import load
from diffoundry.runtime.cli.bench import command as bench

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = (128, 128)
"""Height and width of the images: latents of 3 x 3 and of 32 x 32."""

MAKE = {
    "cascade-prior": make_cascade_prior, "cascade-decoder": make_cascade_decoder,
    "wuerstchen-prior": make_wuerstchen_prior, "wuerstchen-decoder": make_wuerstchen_decoder,
}  # fmt: skip

PARTS = {
    "cascade-prior": {"text_encoder", "image_encoder", "prior"},
    "cascade-decoder": {"text_encoder", "decoder", "vae_decoder"},
    "wuerstchen-prior": {"text_encoder", "prior"},
    "wuerstchen-decoder": {"text_encoder", "decoder", "vae_decoder"},
}

LIMITS = {"fp16": 0.005, "bf16": 0.06, "int8": 0.1}
"""Largest change of the latents by a precision. Networks without training amplify every rounding."""


@pytest.fixture(params=PARTS)
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    return system_checkpoint(name, MAKE[name])


def change(bundle, precision, target=None):
    """Return the RMS of what a precision changes of the last latents, over their RMS in fp32."""
    expected, given = (latents(load(bundle, target=target, precision=one)) for one in ("fp32", precision))
    return np.sqrt(np.square(expected - given).mean() / np.square(expected).mean())


def latents(pipeline):
    """Generate as a measurement does."""
    arguments = pipeline.measure_arguments(4, 3.0, *SIZE)
    result = pipeline("a cat", seed=0, output_type="latent", **arguments)
    return result.images if pipeline.makes_images else result.image_embeddings


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, target, precision):
    bundle = exported(folder, target=target, precision=f"fp32,{precision}")
    assert 0 < change(bundle, precision, target) < LIMITS[precision]


def test_int8_is_calibrated(exported, folder):
    height, width = SIZE
    bundle = calibrate_int8(partial(exported, folder), 15, height=height, width=width)
    assert 0 < change(bundle, "int8") < LIMITS["int8"]


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder):
    check_core_ml(exported(folder, target="onnxruntime,coreml", buckets=(SIZE,)))


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    assert check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options)) == PARTS[name]


def test_verify_passes_every_check(exported, folder, name):
    for compared in check_verify(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,))):
        assert compared == PARTS[name]


def test_bench_measures_both(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,openvino", buckets=(SIZE,))
    few = ["--steps", "2", "--repeats", "1", "--warmups", "0", "--target", "onnxruntime", "--height", "128"]
    result = CliRunner().invoke(bench, [str(bundle), *few, "--width", "128", "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    image = json.loads(result.stdout)["work"]
    assert (image["width"], image["height"]) == ((CHANNELS * 3 * 3, 1) if "prior" in name else SIZE)
