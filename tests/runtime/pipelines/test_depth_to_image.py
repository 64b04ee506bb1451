"""Depth to image beside diffusers' pipeline: the latents after every step, on a tiny random checkpoint."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings

PROMPT = "a red apple"


def image(height=64, width=80, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def depth(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 7


@pytest.fixture(scope="module")
def both(exported, tiny_sd_checkpoint):
    """Factory: our pipeline and diffusers'; its depth estimator is left out, since the depth is passed."""
    bundle = exported(tiny_sd_checkpoint("depth"), target="onnxruntime,openvino")
    without = {"depth_estimator": None, "feature_extractor": None}
    theirs = diffusers_pipeline(tiny_sd_checkpoint("depth"), "StableDiffusionDepth2ImgPipeline", **without)
    return lambda target="onnxruntime": (load(bundle, target=target), theirs)


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_latents_of_diffusers(both, target):
    cases = [
        (PROMPT, {"image": image(), "depth_map": depth(1, 50, 60), "strength": 0.7, "negative_prompt": "blurry"}),
        ([PROMPT, "a cup"], {"image": image(72, 88), "depth_map": depth(1, 9, 11), "num_images_per_prompt": 2}),
        (PROMPT, {"image": image(), "depth_map": depth(1, 64, 80), "guidance_scale": 1.0}),
    ]
    for prompt, arguments in cases if target == "onnxruntime" else cases[:1]:
        compare(*both(target), prompt, num_inference_steps=3, **arguments)


def test_depth_of_any_scale_and_two_axes(both):
    ours, asked = both()[0], {"image": image(), "num_inference_steps": 2, "seed": 0, "output_type": "latent"}
    plain = ours(PROMPT, depth_map=depth(1, 32, 40), **asked).images
    np.testing.assert_allclose(ours(PROMPT, depth_map=depth(32, 40) * 3 + 1, **asked).images, plain, atol=1e-4)
    tensor = torch.from_numpy(depth(32, 40))
    np.testing.assert_array_equal(ours(PROMPT, depth_map=tensor, **asked).images, plain)
    wide = np.random.default_rng(1).integers(0, 60000, (32, 40), dtype=np.uint16)
    drawn = ours(PROMPT, depth_map=Image.fromarray(wide), **asked).images
    np.testing.assert_array_equal(ours(PROMPT, depth_map=wide.astype(np.float32), **asked).images, drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": image()}, "depth_map: got none, expected the depth of the image, since this bundle has no depth"),
        ({"depth_map": "depth.png"}, r"depth_map: got str, expected finite floats \(height, width\) or \(B, height"),
        ({"depth_map": depth(1, 1, 8, 8)}, r"depth_map: got float32 \(1, 1, 8, 8\), expected finite floats"),
        ({"depth_map": np.ones((8, 8))}, "depth_map: got the same depth everywhere, expected near and far parts"),
        ({"depth_map": depth(3, 8, 8)}, "depth_map: got 3 for 1 images, expected one, or a number that divides theirs"),
        ({"depth_map": depth(8, 8), "strength": 2}, "strength: got 2, expected a number above 0 and at most 1"),
    ],
)
def test_what_does_not_fit_is_refused(both, arguments, message):
    with pytest.raises(InputError, match=message):
        both()[0](PROMPT, num_inference_steps=2, **{"image": image(), **arguments})


def test_the_command_line_reads_a_grey_image(both, tmp_path):
    """Of 16 bits."""
    ours, wide = both()[0], np.random.default_rng(1).integers(0, 60000, (32, 40), dtype=np.uint16)
    image().save(tmp_path / "start.png")
    Image.fromarray(wide).save(tmp_path / "depth.png")
    files = ["--image", str(tmp_path / "start.png"), "--depth-map", str(tmp_path / "depth.png")]
    asked = [str(ours.session.bundle.root), "a red apple", "--steps", "2", "--seed", "0", *files]
    result = CliRunner().invoke(command, [*asked, "-o", str(tmp_path / "out.png")])
    assert result.exit_code == 0, result.output
    expected = ours(PROMPT, image=image(), depth_map=wide.astype(np.float32), num_inference_steps=2, seed=0).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(expected))
    assert read_settings(tmp_path / "out.png")["depth_map"] == "depth.png"
