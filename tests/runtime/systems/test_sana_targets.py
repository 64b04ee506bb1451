"""Sana on OpenVINO and other targets, its ControlNet and its perturbed attention."""

from functools import partial

import numpy as np
import pytest
from PIL import Image
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
from tiny_sana import CLASSES, make_sana

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SIZE = (64, 64)
SANA, CONTROL, PAG, SPRINT, IMAGE = CLASSES
EXACT = {"use_resolution_binning": False}
SHORT = {"complex_human_instruction": ["Describe it:", "User Prompt: "]}
SETTINGS = {"seed": 0, "height": 64, "width": 64, "output_type": "np", **EXACT, **SHORT}
TWO = {"prompt": ["a cat", "a red apple on the table"], "num_images_per_prompt": 2, "max_sequence_length": 20}
IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (70, 80, 3), dtype=np.uint8)) for seed in range(2)
]
NEGATIVE = {"negative_prompt": ["blue", "a dog in the garden"]}

CASES = {
    SANA: ({"num_inference_steps": 3}, {**TWO, **NEGATIVE, "num_inference_steps": 3}),
    CONTROL: (
        {"control_image": IMAGES[0], "num_inference_steps": 3},
        {
            **TWO, **NEGATIVE, "control_image": IMAGES, "controlnet_conditioning_scale": 0.5, "num_inference_steps": 3
        },
    ),
    PAG: (
        {"num_inference_steps": 3},
        {**TWO, **NEGATIVE, "pag_scale": 2.0, "pag_adaptive_scale": 0.003, "num_inference_steps": 3},
        {"guidance_scale": 1.0, "num_inference_steps": 2},
        {"pag_scale": 0.0, "num_inference_steps": 2},
    ),
    SPRINT: ({}, {**TWO, "num_inference_steps": 3, "intermediate_timesteps": None}),
    IMAGE: (
        {"image": IMAGES[0]},
        {**TWO, "image": IMAGES, "strength": 0.5, "num_inference_steps": 3, "intermediate_timesteps": None},
    ),
}  # fmt: skip
"""Class to the arguments of calls: the first two of different sizes."""


@pytest.fixture(params=CLASSES)
def name(request):
    return request.param


@pytest.fixture
def folder(system_checkpoint, name):
    return system_checkpoint(name, lambda folder: make_sana(folder, name))


@pytest.fixture
def sana(system_checkpoint):
    return system_checkpoint(SANA, lambda folder: make_sana(folder, SANA))


def test_every_step_is_diffusers(exported, folder, name):
    bundle, theirs = exported(folder, target="onnxruntime,openvino"), open_theirs(folder, name)
    for target in ("onnxruntime", "openvino"):
        ours = load(bundle, target=target)
        for index, arguments in enumerate(CASES[name]):
            size = {"height": 64, "width": 96} if index % 2 == 0 else {"height": 96, "width": 64}
            compare_system(ours, theirs, **{"prompt": "a red apple", **size, **EXACT, **SHORT, **arguments})


def test_other_layers_are_perturbed(exported, system_checkpoint):
    folder = system_checkpoint(PAG, lambda folder: make_sana(folder, PAG))
    ours, theirs = load(exported(folder, target="onnxruntime,openvino")), open_theirs(folder, PAG)
    theirs.set_pag_applied_layers(["transformer_blocks.1", "blocks.0"], tuple(theirs._pag_attn_processors))
    compare_system(
        ours, theirs, prompt="a cat", num_inference_steps=2, height=64, width=64, **EXACT, **SHORT,
        ours_only={"pag_applied_layers": ["transformer_blocks.1", "blocks.0"]},
    )  # fmt: skip
    for layers, words in (("blocks.7", "which fits no layer, expected names such as"), ("(a", "expected names of lay")):
        with pytest.raises(InputError, match=f"pag_applied_layers: got .*{words}"):
            ours("a cat", pag_applied_layers=layers, **SETTINGS)


def test_positions_between_those_of_the_training(exported, system_checkpoint):
    """Networks for 2 and 4 thousand pixels have positions, which are inputs. Here with 32 pixels to a latent."""
    folder = system_checkpoint(
        "sana-positions", lambda folder: make_sana(folder, SANA, levels=6, interpolation_scale=2.0)
    )
    ours, theirs = load(exported(folder)), open_theirs(folder, SANA)
    for height, width in ((64, 96), (160, 128)):
        compare_system(
            ours, theirs, prompt="a cat", num_inference_steps=2, height=height, width=width, **EXACT, **SHORT
        )
    compare_system(ours, theirs, prompt="a cat", num_inference_steps=1, height=200, width=120, **SHORT)


def test_a_control_net_joins_a_checkpoint_of_sana(exported, system_checkpoint, sana):
    """Without an image it changes nothing."""
    control = system_checkpoint(CONTROL, lambda folder: make_sana(folder, CONTROL))
    joined = load(exported(sana, controlnets=(str(control / "controlnet"),)))
    assert joined.session.bundle.pipeline_class == CONTROL
    assert set(joined.session.bundle.components) == {
        "text_encoder", "transformer", "controlnet", "vae_encoder", "vae_decoder"
    }  # fmt: skip
    plain = load(exported(sana, target="onnxruntime,openvino"), target="onnxruntime")
    expected, given = (one("a cat", num_inference_steps=2, **SETTINGS).images for one in (plain, joined))
    np.testing.assert_allclose(given, expected, atol=1e-5)
    with pytest.raises(InputError, match="control_image: got 3 images for 2 prompts, expected one, or one for each"):
        joined(["a", "b"], control_image=[IMAGES[0]] * 3, **SETTINGS)


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")])
def test_half_precision_stays_close(exported, folder, name, target, precision):
    image = {argument: value for argument, value in CASES[name][0].items() if "image" in argument}
    check_half_precision(partial(exported, folder), {**SETTINGS, **image}, target, precision)


def test_int8_is_calibrated(exported, sana):
    bundle = calibrate_int8(partial(exported, sana), 15, height=64, width=64)
    settings = {**SETTINGS, "num_inference_steps": 4}
    check_int8(*(load(bundle, precision=one)("a cat", **settings).images for one in ("fp32", "int8")), 15)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_weights_of_few_bits_stay_close(exported, sana, target):
    request = QuantizationRequest(
        budget=Budget(min_psnr=15), prompts=("cat",), held_out=("apple",), steps=4, height=64, width=64
    )
    words = ("int8-weights", "int4-weights")
    bundle = exported(sana, target=target, precision=f"fp32,{','.join(words)}", quantization=request)
    settings = {**SETTINGS, "num_inference_steps": 4}
    images = {
        word: load(bundle, target=target, precision=word)("a cat", **settings).images for word in ("fp32", *words)
    }
    for word in words:
        check_int8(images["fp32"], images[word], 15)


def test_core_ml_has_the_numbers_of_onnx_runtime(exported, folder, name):
    bundle = exported(folder, target="onnxruntime,coreml", buckets=(SIZE,))
    shapes = {
        component: {spec.name: spec.shape for spec in engine.inputs}
        for component in ("transformer", "text_encoder")
        for engine in Bundle(bundle).engines(component)
        if engine.target == "coreml"
    }
    assert shapes["transformer"]["encoder_attention_mask"][1] == 300
    assert shapes["text_encoder"]["input_ids"][1] == 640
    check_core_ml(bundle)


def test_tensorrt_for_rtx_builds_every_network(exported, folder, name):
    built = check_tensorrt_rtx(lambda **options: exported(folder, buckets=(SIZE,), **options))
    assert built >= {"text_encoder", "transformer", "vae_decoder"}
    assert ("controlnet" in built) == (name == CONTROL)


def test_verify_passes_every_check(exported, folder):
    for compared in check_verify(exported(folder, target="onnxruntime,openvino", buckets=(SIZE,))):
        assert compared >= {"text_encoder", "transformer", "vae_decoder"}


def test_bundles_without_a_text_encoder_are_verified_and_measured(exported, sana):
    bundle = exported(sana, target="onnxruntime", without=("text_encoder",), buckets=(SIZE,))
    check_verify(bundle)
    measure_beside_pytorch(bundle, SIZE)
