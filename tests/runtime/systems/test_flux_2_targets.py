"""FLUX.2 klein with all layers that diffusers reads, and on other targets."""

from functools import partial

import numpy as np
import pytest
from PIL.Image import fromarray
from system_pair import compare_system, open_theirs
from system_targets import (
    calibrate_int8,
    check_core_ml,
    check_half_precision,
    check_int8,
    check_tensorrt_rtx,
    check_verify,
    measure_beside_pytorch,
)
from tiny_flux_2 import KLEIN_CLASSES, make_klein

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = (64, 64)
PARTS = {"text_encoder", "transformer", "vae_encoder", "vae_decoder"}
SETTINGS = {
    "seed": 0, "num_inference_steps": 4, "height": 64, "width": 64, "output_type": "np", "guidance_scale": 2.0,
    "max_sequence_length": 64,
}  # fmt: skip


@pytest.fixture(params=KLEIN_CLASSES)
def kind(system_checkpoint, request):
    name = request.param
    return name, system_checkpoint(f"flux-2-{name}", lambda folder: make_klein(folder, name))


@pytest.fixture
def folder(system_checkpoint):
    name = KLEIN_CLASSES[0]
    return system_checkpoint(f"flux-2-{name}", lambda folder: make_klein(folder, name))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_prompts_are_read_as_diffusers_reads_them(exported, kind, target):
    name, folder = kind
    ours, theirs = load(exported(folder, target=target), target=target), open_theirs(folder, name)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    image = {"image": fromarray(pixels), "mask_image": fromarray(pixels[:, :, 0])}
    more = image if name == KLEIN_CLASSES[1] else {"height": 24, "width": 32}
    texts = ["a cat", "naïve café, 一只红色的苹果 " * 9]
    if name != KLEIN_CLASSES[2]:
        more["guidance_scale"] = 3.0
    compare_system(ours, theirs, prompt=texts, num_inference_steps=3, watch=False, **more)


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, target, precision):
    check_half_precision(partial(exported, folder), SETTINGS, target, precision)


def test_int8_is_calibrated(exported, folder):
    bundle = calibrate_int8(partial(exported, folder), 15, height=64, width=64)
    check_int8(*(load(bundle, precision=one)("a cat", **SETTINGS).images for one in ("fp32", "int8")), 15)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_weights_of_few_bits_stay_close(exported, folder, target):
    request = QuantizationRequest(
        budget=Budget(min_psnr=15), prompts=("cat",), held_out=("apple",), steps=4, height=64, width=64
    )
    words = ("int8-weights", "int4-weights")
    bundle = exported(folder, target=target, precision=f"fp32,{','.join(words)}", quantization=request)
    images = {
        word: load(bundle, target=target, precision=word)("a cat", **SETTINGS).images for word in ("fp32", *words)
    }
    for word in words:
        check_int8(images["fp32"], images[word], 15)


def test_core_ml_has_the_numbers_of_onnx_runtime_with_a_reference(exported, system_checkpoint):
    """Its engine has as many tokens of references as an image of the default size."""
    folder = system_checkpoint(f"flux-2-{KLEIN_CLASSES[2]}", lambda folder: make_klein(folder, KLEIN_CLASSES[2]))
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZE,))
    (engine,) = (spec for spec in Bundle(bundle).engines("transformer") if spec.target == "coreml")
    shapes = {spec.name: spec.shape for spec in engine.inputs}
    assert shapes["reference_cos"][0] == 64 * 64
    check_core_ml(bundle)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZE,))
    (engine,) = (spec for spec in Bundle(bundle).engines("transformer") if spec.target == "coreml")
    shapes = {spec.name: spec.shape for spec in engine.inputs}
    assert shapes["encoder_hidden_states"][1] == shapes["text_cos"][0] == 512
    assert shapes["rotary_cos"] == shapes["rotary_sin"] == (16, 16, 8)
    assert not any("reference" in name for name in shapes), "engines of one size see no other images"
    check_core_ml(bundle)


def test_tensorrt_for_rtx_builds_every_network(exported, kind):
    _, folder = kind
    assert check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options)) == PARTS


def test_verify_passes_every_check(exported, kind):
    bundle = exported(kind[1], target="onnxruntime,openvino", buckets=(SIZE,))
    for compared in check_verify(bundle):
        assert compared >= PARTS - {"vae_encoder"}


def test_bench_measures_both_beside_pytorch(exported, folder):
    measure_beside_pytorch(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,)), SIZE)
