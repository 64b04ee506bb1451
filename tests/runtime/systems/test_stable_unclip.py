"""Stable unCLIP, from a prompt and from an image, against diffusers after every step of both stages."""

import inspect
import json
import shutil
from dataclasses import fields

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from system_pair import compare_system
from unclip_checkpoints import UNCLIP_CHECKPOINTS, WIDTH

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import CheckpointError, InputError, UnknownArgumentError
from diffoundry.runtime.pipelines.systems.stable_unclip_inputs import StableUnCLIPImageInputs, StableUnCLIPInputs

pytestmark = pytest.mark.slow

TEXT, IMAGE = "StableUnCLIPPipeline", "StableUnCLIPImg2ImgPipeline"


@pytest.fixture(scope="module")
def checkpoint(system_checkpoint):
    """The tiny checkpoint of a class."""
    return lambda name: system_checkpoint(name, UNCLIP_CHECKPOINTS[name])


@pytest.fixture(scope="module")
def pair(checkpoint, exported):
    """Our pipeline and diffusers', by the class."""

    def open_both(name, target="onnxruntime"):
        folder = checkpoint(name)
        bundle = exported(folder, target="onnxruntime,openvino" if name == IMAGE else "onnxruntime")
        return load(bundle, target=target), reference_pipeline(open_checkpoint(str(folder)))

    return open_both


STEPS = {"num_inference_steps": 3, "height": 64, "width": 48}
PRIOR_STEPS = {**STEPS, "prior_num_inference_steps": 3}


def picture(width, height, seed=0):
    colours = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)


def noise(*shape):
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def both(**arrays):
    """Arguments that are arrays here and tensors there."""
    return {"ours_only": arrays, "theirs_only": {name: torch.from_numpy(array) for name, array in arrays.items()}}


TEXT_CASES = {
    "one prompt": {"prompt": "a red apple", "noise_level": 7},
    "a batch": {
        "prompt": ["a red apple on the table " * 20, "b"],
        "negative_prompt": ["blue", "c"],
        "num_images_per_prompt": 2,
        "eta": 0.5,
    },
    "no guidance": {"prompt": "a", "guidance_scale": 1.0, "prior_guidance_scale": 1.0, "noise_level": 19},
    "guidance of the prior alone": {"prompt": ["a", "b"], "guidance_scale": 0.0},
    "own noise": {"prompt": "a", **both(prior_latents=noise(1, WIDTH), latents=noise(1, 4, 8, 6))},
}

IMAGE_CASES = {
    "one image": {"image": picture(40, 31), "noise_level": 5},
    "one image for two prompts": {"image": picture(32, 32), "prompt": ["a", "b"], "num_images_per_prompt": 2},
    "images": {"image": [picture(32, 50), picture(64, 32, 1)], "negative_prompt": ["a", "b"]},
    "no guidance": {"image": picture(32, 32), "prompt": "a", "guidance_scale": 1.0, "eta": 1.0},
    "embeddings": {"prompt": ["a", "b"], "num_images_per_prompt": 2, **both(image_embeds=noise(2, WIDTH))},
    "own noise": {"image": picture(32, 32), **both(latents=noise(1, 4, 8, 6))},
}


@pytest.mark.slow
def test_every_step_of_a_prompt_is_diffusers(pair):
    ours, theirs = pair(TEXT)
    for case, arguments in TEXT_CASES.items():
        images = compare_system(ours, theirs, **{**PRIOR_STEPS, **arguments})
        assert images.shape[1:] == (64, 48, 3), case
        assert images.std() > 0.02, case


def test_every_step_of_an_image_is_diffusers(pair):
    for target in ("onnxruntime", "openvino"):
        ours, theirs = pair(IMAGE, target)
        for case, arguments in IMAGE_CASES.items() if target == "onnxruntime" else list(IMAGE_CASES.items())[:1]:
            images = compare_system(ours, theirs, **{**STEPS, **arguments})
            assert images.std() > 0.02, case


def test_other_schedulers_scale_the_noise(pair):
    ours, theirs = pair(IMAGE)
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_config(theirs.scheduler.config)
    ours.scheduler = "euler"
    for latents in ({}, both(latents=noise(1, 4, 8, 6))):  # diffusers takes the caller's as they are
        compare_system(ours, theirs, image=picture(32, 32), **STEPS, **latents)


def test_defaults_are_diffusers():
    for name, kind in ((TEXT, StableUnCLIPInputs), (IMAGE, StableUnCLIPImageInputs)):
        theirs = inspect.signature(getattr(diffusers, name).__call__).parameters
        own = {field.name: field.default for field in fields(kind)}
        assert {key: value for key, value in own.items() if key in theirs} == {
            key: theirs[key].default for key in own if key in theirs
        }
        assert own.keys() - theirs.keys() == {"prompt_weighting", "long_prompts"}


def test_the_embedding_decides(pair):
    """Another image, or another noise on its embedding, gives other latents."""
    ours, _ = pair(IMAGE)
    usual = {"image": picture(32, 32), "prompt": "a", "seed": 0, "output_type": "latent", **STEPS}
    latents = ours(**usual).images
    for other in ({"image": picture(32, 32, 1)}, {"noise_level": 19}):
        assert np.abs(ours(**{**usual, **other}).images - latents).max() > 0.01 * latents.std()


def test_seeds_of_images_are_those_of_single_ones(pair):
    ours, _ = pair(IMAGE)
    arguments = {"image": picture(32, 32), "noise_level": 19, "output_type": "np", **STEPS}
    both_images = ours(seed=[1, 2], num_images_per_prompt=2, **arguments).images
    for index, seed in enumerate((1, 2)):
        np.testing.assert_allclose(both_images[index], ours(seed=seed, **arguments).images[0], atol=1e-4)


ERRORS = {
    TEXT: {
        "no prompt": ({"prompt": None}, "prompt and prompt_embeds: got neither"),
        "embeddings": ({"prompt": None, "prompt_embeds": noise(1, 77, WIDTH)}, "prompt_embeds: got an array, expected"),
        "noise level": ({"noise_level": 20}, "noise_level: got 20, expected a whole number from 0 to 19"),
        "negative noise level": ({"noise_level": -1}, "noise_level: got -1, expected a whole number of at least 0"),
        "prior steps": ({"prior_num_inference_steps": 0}, "prior_num_inference_steps: got 0"),
        "prior guidance": ({"prior_guidance_scale": -2.0}, "prior_guidance_scale: got -2.0"),
        "a size": ({"height": 60}, "height"),
        "an image": ({"image": picture(8, 8)}, "image"),
    },
    IMAGE: {
        "no image": ({"image": None}, "image and image_embeds: got neither"),
        "both": ({"image_embeds": noise(1, WIDTH)}, "image and image_embeds: got both"),
        "other embeddings": ({"image": None, "image_embeds": noise(WIDTH)}, r"image_embeds: got shape \(32,\)"),
        "fewer images": (
            {"image": [picture(8, 8)] * 2, "prompt": ["a", "b", "c"]},
            "image: got 2 images, expected one, or 3, one for each prompt",
        ),
        "skipped layers": ({"clip_skip": 1}, "clip_skip: got 1, expected none: diffusers ignores it"),
        "a text": ({"image": "cat.png"}, "image: got"),
        "prior": ({"prior_guidance_scale": 2.0}, "prior_guidance_scale"),
    },
}


def test_wrong_arguments_are_refused(pair):
    usual = {TEXT: {"prompt": "a", **PRIOR_STEPS}, IMAGE: {"image": picture(8, 8), **STEPS}}
    for name, errors in ERRORS.items():
        ours, _ = pair(name)
        for arguments, words in errors.values():
            with pytest.raises((InputError, UnknownArgumentError), match=words):
                ours(**{**usual[name], **arguments})


def test_the_command_line_needs_no_prompt_beside_an_image(pair, tmp_path):
    bundle = str(pair(IMAGE)[0].session.bundle.root)
    source, out = tmp_path / "a.png", tmp_path / "b.png"
    picture(32, 32).save(source)
    usual = [bundle, "--image", str(source), "--steps", "2", "-o", str(out)]
    generate.main([*usual, "--noise-level", "3"], standalone_mode=False)
    assert out.is_file()
    with pytest.raises(InputError, match="--noise-level: got 20, expected a whole number from 0 to 19"):
        generate.main([*usual, "--noise-level", "20"], standalone_mode=False)


def test_a_scheduler_that_needs_the_following_timestep_is_refused(checkpoint, exported, tmp_path):
    folder = shutil.copytree(checkpoint(TEXT), tmp_path / "own")
    path = folder / "prior_scheduler/scheduler_config.json"
    diffusers.UnCLIPScheduler(prediction_type="sample").save_config(folder / "prior_scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["prior_scheduler"] = ["diffusers", "UnCLIPScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert path.is_file()
    with pytest.raises(CheckpointError, match="prior_scheduler/scheduler_config.json: field '_class_name': got 'UnCLI"):
        exported(folder)
