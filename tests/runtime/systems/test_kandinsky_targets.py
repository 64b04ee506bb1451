"""Kandinsky on other targets: calibrated int8, Core ML by the interpreter, TensorRT for RTX by its builder."""

from functools import partial

import diffusers
import pytest
from system_targets import calibrate_int8, check_core_ml, check_int8, check_tensorrt_rtx
from tiny_kandinsky import DDIM, make_decoder, make_prior, make_text_decoder

from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NAMES = (
    "KandinskyV22PriorPipeline",
    "KandinskyV22PriorEmb2EmbPipeline",
    "KandinskyV22Pipeline",
    "KandinskyV22Img2ImgPipeline",
    "KandinskyV22InpaintPipeline",
    "KandinskyV22ControlnetPipeline",
    "KandinskyV22ControlnetImg2ImgPipeline",
    "KandinskyPipeline",
    "KandinskyImg2ImgPipeline",
    "KandinskyInpaintPipeline",
)

STARTS = ("Img2Img", "Inpaint", "Emb2Emb")
"""In the names of classes that take an image."""


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    scheduler = diffusers.DDIMScheduler(**DDIM)
    if "Prior" in name:
        return system_checkpoint(name, partial(make_prior, name=name))
    make = make_decoder if "V22" in name else make_text_decoder
    return system_checkpoint(name, lambda folder: make(folder, name, scheduler))


def size(name):
    return (64, 64) if "Controlnet" in name else (16, 16)


def run(pipeline, name):
    """Generate as a measurement does."""
    arguments = pipeline.measure_arguments(4, 3.0, *size(name))
    assert ("image" in arguments) == any(word in name for word in STARTS)
    assert ("mask_image" in arguments) == ("Inpaint" in name)
    prompt = "a cat" if pipeline.text_encoders else None
    return pipeline.measured_images(pipeline(prompt, seed=0, output_type="np", **arguments))


def test_int8_is_calibrated(exported, folder, name):
    height, width = size(name)
    bundle = calibrate_int8(partial(exported, folder), 12, height=height, width=width)
    expected, given = (run(load(bundle, precision=one), name) for one in ("fp32", "int8"))
    check_int8(expected, given, 12)
    if any(word in name for word in STARTS) and "Prior" not in name:
        assert "vae_encoder" in Bundle(bundle).manifest.recipe.quantization["int8"].components


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(size(name),))
    check_core_ml(bundle, (2, 50))


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    check_tensorrt_rtx(lambda **options: exported(folder, buckets=(size(name),), **options))
