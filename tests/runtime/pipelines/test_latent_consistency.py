"""`LatentConsistencyModelPipeline` and its img2img form against diffusers: latents after every step, the image."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline, reference

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.runtime import load
from diffoundry.runtime.errors import CheckpointError, InputError
from diffoundry.runtime.pipelines.families.latent_consistency import LatentConsistency

pytestmark = pytest.mark.slow

CLASS = "LatentConsistencyModelPipeline"
IMAGE_CLASS = "LatentConsistencyModelImg2ImgPipeline"


@pytest.fixture(scope="module")
def ours(exported, tiny_sd_checkpoint):
    return load(exported(tiny_sd_checkpoint("lcm")))


@pytest.fixture(scope="module")
def theirs(tiny_sd_checkpoint):
    """Both forms, by class name."""
    root = tiny_sd_checkpoint("lcm")
    return {name: diffusers_pipeline(root, name, safety_checker=None) for name in (CLASS, IMAGE_CLASS)}


@pytest.fixture(scope="module")
def picture():
    return Image.effect_noise((64, 64), 90).convert("RGB")


TEXT = [
    {},
    {"num_inference_steps": 1, "guidance_scale": 1.0},
    {"num_inference_steps": 8, "guidance_scale": 3.5, "original_inference_steps": 100, "height": 56, "width": 72},
    {"timesteps": [999, 759, 499, 259], "num_images_per_prompt": 2},
]


def test_every_step_of_text_to_image_is_diffusers(ours, theirs):
    for arguments in TEXT:
        compare(ours, theirs[CLASS], ["a cat", "a dog"], **arguments)
    compare(ours, theirs[CLASS], ["a cat", "a dog"], seed=[3, 4])
    generator = torch.Generator().manual_seed(1)
    outputs = ours("a cat", seed=1), theirs[CLASS]("a cat", generator=generator)
    images = [np.asarray(output.images[0], int) for output in outputs]
    assert np.abs(images[0] - images[1]).max() <= 1  # with all defaults, size included


def test_every_step_of_image_to_image_is_diffusers(ours, theirs, picture):
    for arguments in (
        {},
        {"strength": 0.5, "num_inference_steps": 6, "guidance_scale": 2.0, "original_inference_steps": 30},
        {"strength": 1.0, "num_inference_steps": 2, "num_images_per_prompt": 2},
    ):
        compare(ours, theirs[IMAGE_CLASS], "a fish", image=picture, **arguments)
    compare(ours, theirs[IMAGE_CLASS], ["a fish", "a cat"], image=picture, seed=[1, 2])
    latents = ours("a fish", seed=1, output_type="latent").images
    compare(ours, theirs[IMAGE_CLASS], "a cat", image=latents)


def test_custom_timesteps_that_are_cut_end_in_the_clean_sample(ours, theirs, picture):
    """The last of the steps that are left steps to a noisy sample; diffusers decodes the clean one."""
    arguments = {"image": picture, "strength": 0.5, "timesteps": [999, 759, 499, 259], "output_type": "latent"}
    _, expected = reference(theirs[IMAGE_CLASS], "a fish", 0, **arguments)
    found = ours("a fish", seed=0, **arguments).images
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_callback_sees_and_changes_the_guidance_embedding(ours, theirs):
    def change(_pipe, index, _timestep, values):
        return {"w_embedding": values["w_embedding"] * 0.5} if index == 1 else {}

    options = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["latents", "w_embedding"]}
    ours_latents = ours("a cat", seed=0, output_type="latent", **options).images
    generator = torch.Generator().manual_seed(0)
    theirs_latents = theirs[CLASS]("a cat", generator=generator, output_type="latent", **options).images
    np.testing.assert_allclose(ours_latents, theirs_latents.numpy(), atol=1e-4)
    assert np.abs(ours_latents - ours("a cat", seed=0, output_type="latent").images).max() > 1e-3


@pytest.mark.parametrize(("task", "name"), [("text_to_image", CLASS), ("image_to_image", IMAGE_CLASS)])
def test_defaults_are_those_of_the_class(task, name):
    parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
    for argument, value in LatentConsistency.defaults[task].items():
        assert parameters[argument].default == value


def test_refusals(ours, picture, tiny_sd_checkpoint, tiny_controlnet):
    for arguments, message in (
        ({"negative_prompt": "bad"}, "negative_prompt: latent consistency models take none"),
        ({"scheduler": "EulerDiscrete"}, "scheduler: got EulerDiscreteScheduler, expected LCMScheduler"),
        ({"image": picture, "denoising_start": 0.5}, "denoising_start: latent consistency models take none"),
        ({"guidance_rescale": 0.7}, "guidance_rescale: latent consistency models take none"),
        ({"original_inference_steps": 0}, "original_inference_steps: got 0, expected a whole number of at least 1"),
        ({"num_inference_steps": 60}, "num_inference_steps is 60, expected at most 50"),
    ):
        with pytest.raises(InputError, match=message):
            ours("a cat", **arguments)
    root = tiny_sd_checkpoint("lcm")
    with pytest.raises(CheckpointError, match=f"'{CLASS}' with a ControlNet, expected one of StableDiffusionPipeline"):
        open_checkpoint(str(root)).with_controlnets([str(tiny_controlnet())])


def test_a_unet_that_takes_no_guidance_scale_is_refused(own_plain):
    with pytest.raises(
        CheckpointError, match="unet/config.json: field 'time_cond_proj_dim': got none, expected a number"
    ):
        open_checkpoint(str(own_plain))


@pytest.fixture
def own_plain(tiny_sd_checkpoint, tmp_path):
    """A plain checkpoint that claims to be a latent consistency model."""
    import json
    import shutil

    root = shutil.copytree(tiny_sd_checkpoint(), tmp_path / "plain")
    index = json.loads((root / "model_index.json").read_text())
    (root / "model_index.json").write_text(json.dumps({**index, "_class_name": CLASS}))
    return root
