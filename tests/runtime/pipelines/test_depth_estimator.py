"""Depth to image with the checkpoint's depth estimator beside diffusers': latents, images, targets, precisions."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline
from small_bundle import seal
from system_targets import check_core_ml, check_int8, check_tensorrt_rtx

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.cli.verify import command as verify
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.images.save import read_settings
from diffoundry.runtime.models.depth_estimator import DPTForDepthEstimation

PROMPT = "a red apple"


def image(height=64, width=80, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def bundle(exported, tiny_sd_checkpoint):
    return exported(tiny_sd_checkpoint("depth-estimated"))


@pytest.fixture
def ours(bundle):
    return load(bundle)


@pytest.fixture(scope="module")
def theirs(tiny_sd_checkpoint):
    return diffusers_pipeline(tiny_sd_checkpoint("depth-estimated"), "StableDiffusionDepth2ImgPipeline")


CASES = (
    (PROMPT, {"image": image(), "strength": 0.7, "negative_prompt": "blurry"}),
    ([PROMPT, "a cup"], {"image": [image(72, 88), image(72, 88, seed=1)], "num_images_per_prompt": 2}),
    (PROMPT, {"image": image(40, 120), "guidance_scale": 1.0}),
    (PROMPT, {"image": image(), "depth_map": np.random.default_rng(0).random((1, 9, 11), np.float32)}),
)


@pytest.mark.slow
def test_the_latents_of_diffusers(ours, theirs):
    for prompt, arguments in CASES:
        compare(ours, theirs, prompt, num_inference_steps=2, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["depth-estimated", "depth-vit"])
def test_the_latents_of_diffusers_on_each_target(exported, tiny_sd_checkpoint, variant):
    """With a backbone of convolutions, and with a ViT alone."""
    folder, targets = tiny_sd_checkpoint(variant), "onnxruntime,openvino"
    reference, made = diffusers_pipeline(folder, "StableDiffusionDepth2ImgPipeline"), exported(folder, target=targets)
    for target in targets.split(","):
        for prompt, arguments in CASES[:3]:
            compare(load(made, target=target), reference, prompt, num_inference_steps=3, **arguments)


@pytest.mark.slow
def test_the_estimator_runs_without_a_depth_map_alone(ours):
    asked = {"image": image(), "num_inference_steps": 2, "seed": 0, "output_type": "latent"}
    depth = DPTForDepthEstimation(ours.session)([image()])
    assert depth.shape == (1, 32, 32)
    estimated = ours(PROMPT, **asked).images
    np.testing.assert_array_equal(ours(PROMPT, depth_map=depth, **asked).images, estimated)
    assert np.abs(ours(PROMPT, depth_map=depth[:, ::-1], **asked).images - estimated).max() > 0.01
    assert ours.example_inputs == ("image", "strength")


@pytest.mark.slow
def test_one_depth_everywhere_is_refused(ours):
    """diffusers divides by zero there, and generates a black image."""
    asked = {"image": Image.new("RGB", (64, 64)), "num_inference_steps": 2}
    ours.family.depth_estimator = lambda images: np.full((len(images), 8, 8), 3, np.float32)
    ours.family.depth_estimator.check = lambda _images: None
    with pytest.raises(InputError, match="image: the depth estimator sees the same depth everywhere, expected near"):
        ours(PROMPT, **asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "image: got none, expected image: depth to image is what this checkpoint does"),
        (
            {"image": np.zeros((64, 64, 3), np.float32)},
            "depth_map: got none for an array or latents, expected it: the depth estimator reads PIL images",
        ),
        ({"image": np.zeros((1, 4, 8, 8), np.float32)}, "depth_map: got none for an array or latents, expected it"),
        ({"image": Image.new("RGBA", (64, 64))}, "image: got an image with transparency, expected one without"),
        ({"image": [image(), image(), image()]}, "image: got 3 for 1 images, expected one, or a number that divides"),
    ],
)
def test_what_does_not_fit_is_refused(ours, arguments, message):
    with pytest.raises(InputError, match=message):
        ours(PROMPT, num_inference_steps=2, **arguments)


@pytest.mark.slow
def test_an_image_that_does_not_become_a_square_is_refused(bundle, tmp_path):
    copied = tmp_path / "ratio.bundle"
    shutil.copytree(bundle, copied)
    file = copied / "feature_extractor/preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "keep_aspect_ratio": True}))
    seal(copied, "feature_extractor/preprocessor_config.json")
    message = r"image: got 80 x 64 pixels, which this checkpoint resizes to 40 x 32 for its .* expected 32 x 32; crop"
    with pytest.raises(InputError, match=message):
        load(copied)(PROMPT, image=image(), num_inference_steps=2)


def test_a_backbone_of_another_kind_is_refused(tiny_sd_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_sd_checkpoint("depth-vit"), tmp_path / "beit")
    file = folder / "depth_estimator/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "backbone_config": {"model_type": "beit"}}))
    message = r"depth_estimator/config.json: got the backbone 'beit', expected DPT's own ViT.*; write \[null, null\]"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(folder))


def test_a_missing_image_processor_is_refused(tiny_sd_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_sd_checkpoint("depth-estimated"), tmp_path / "damaged")
    shutil.rmtree(folder / "feature_extractor")
    message = "got no folder 'feature_extractor', although .* DPTImageProcessorPil .* incomplete, download it again$"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(folder))


@pytest.mark.slow
def test_the_command_line_needs_no_depth_map(bundle, ours, tmp_path):
    image().save(tmp_path / "start.png")
    asked = [str(bundle), PROMPT, "--steps", "2", "--seed", "0", "--image", str(tmp_path / "start.png")]
    result = CliRunner().invoke(generate, [*asked, "-o", str(tmp_path / "out.png")])
    assert result.exit_code == 0, result.output
    expected = ours(PROMPT, image=image(), num_inference_steps=2, seed=0).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(expected))
    assert "depth_map" not in read_settings(tmp_path / "out.png")


@pytest.mark.slow
def test_verify_compares_the_estimator_and_its_processor(bundle, tiny_sd_checkpoint):
    asked = [str(bundle), "--against", str(tiny_sd_checkpoint("depth-estimated")), "--steps", "2"]
    result = CliRunner().invoke(verify, [*asked, "--target", "onnxruntime", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert "predicted_depth" in json.dumps(report["variants"])
    assert any(one["subject"].startswith("feature_extractor") and one["passed"] for one in report["checks"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions(exported, tiny_sd_checkpoint, ours, precision):
    target = "onnxruntime" if precision == "fp16" else "openvino"
    half = load(exported(tiny_sd_checkpoint("depth-estimated"), target=target, precision=precision))
    asked = {"image": image(), "num_inference_steps": 2, "seed": 0, "output_type": "np"}
    error = np.square(half(PROMPT, **asked).images - ours(PROMPT, **asked).images).mean()
    assert 0 < error < 10 ** (-4 if precision == "fp16" else -2.5)


@pytest.mark.slow
def test_int8_is_calibrated(exported, tiny_sd_checkpoint):
    request = QuantizationRequest(budget=Budget(min_psnr=20), prompts=(PROMPT,), held_out=("a cup",), steps=4)
    made = exported(tiny_sd_checkpoint("depth-estimated"), precision="fp32,int8", quantization=request)
    choice = Bundle(made).manifest.recipe.quantization["int8"]
    assert choice.psnr >= 20
    assert choice.components["depth_estimator"].quantized
    asked = {"image": image(), "num_inference_steps": 4, "seed": 0, "output_type": "np"}
    expected, given = (load(made, precision=one)(PROMPT, **asked).images for one in ("fp32", "int8"))
    check_int8(expected, given, 15)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["depth-estimated", "depth-vit"])
def test_core_ml_computes_every_component(exported, tiny_sd_checkpoint, variant):
    check_core_ml(exported(tiny_sd_checkpoint(variant), target="onnxruntime,coreml", buckets=((32, 40),)))


@pytest.mark.slow
def test_tensorrt_rtx_takes_every_component(exported, tiny_sd_checkpoint):
    names = check_tensorrt_rtx(partial(exported, tiny_sd_checkpoint("depth-estimated")))
    assert "depth_estimator" in names
