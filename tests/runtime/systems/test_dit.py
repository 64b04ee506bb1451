"""DiT against diffusers, after every step: guidance with the null class, learned variance, classes by name."""

import diffusers
import numpy as np
import pytest
from pixel_checkpoints import CHECKPOINTS
from system_pair import compare_system, open_theirs

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError


@pytest.fixture(scope="module")
def pair(system_checkpoint, exported):
    """Our pipeline and diffusers', with a learned variance or without."""

    def open_both(learned=True, target="onnxruntime"):
        name = "dit" if learned else "dit-without-variance"
        folder = system_checkpoint(name, CHECKPOINTS[name])
        bundle = exported(folder, target="onnxruntime,openvino" if learned else "onnxruntime")
        return load(bundle, target=target), open_theirs(folder, "DiTPipeline")

    return open_both


CASES = {
    "DDIM": {"class_labels": [207]},
    "several classes": {"class_labels": [3, 999, 0], "guidance_scale": 1.5},
    "no guidance": {"class_labels": [3, 1000], "guidance_scale": 1.0},
    "DPM++": {"class_labels": [3, 4], "scheduler": "DPMSolverMultistepScheduler"},
    "noise for both halves": {
        "class_labels": [3, 4],
        "scheduler": "DPMSolverMultistepScheduler",
        "options": {"algorithm_type": "sde-dpmsolver++"},
    },
    "DDPM without guidance": {"class_labels": [3, 4], "scheduler": "DDPMScheduler", "guidance_scale": 0.5},
    "scaled latents go on": {"class_labels": [3], "scheduler": "EulerDiscreteScheduler"},
}


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pair, target):
    for case, arguments in CASES.items():
        given = dict(arguments)
        ours, theirs = pair(True, target)
        name, options = given.pop("scheduler", "DDIMScheduler"), given.pop("options", {})
        theirs.scheduler = getattr(diffusers, name).from_config(theirs.scheduler.config, **options)
        ours.scheduler_config = {**theirs.scheduler.config, "_class_name": name}
        # It passes no generator to the scheduler, which draws from the global one.
        images = compare_system(ours, theirs, num_inference_steps=3, global_noise=True, **given)
        assert images.shape == (len(given["class_labels"]), 16, 16, 3), case
        assert images.std() > 0.01, case


@pytest.mark.slow
def test_without_a_learned_variance(pair):
    ours, theirs = pair(False)
    compare_system(ours, theirs, num_inference_steps=3, class_labels=[7])


def test_classes_have_the_names_of_diffusers(pair):
    ours, theirs = pair()
    assert ours.labels == theirs.labels
    assert ours.get_label_ids(["Tinca tinca", "goldfish"]) == theirs.get_label_ids(["Tinca tinca", "goldfish"])
    by_name = ours(class_labels="golden retriever", seed=1, num_inference_steps=2, output_type="latent").images
    by_number = ours(class_labels=207, seed=1, num_inference_steps=2, output_type="latent").images
    np.testing.assert_array_equal(by_name, by_number)


def test_seeds_of_a_batch_are_those_of_single_images(pair):
    ours, _ = pair()
    ours.scheduler = "ddpm"
    arguments = {"num_inference_steps": 3, "output_type": "np", "class_labels": [5]}
    both = ours(seed=[3, 4], batch_size=2, **arguments).images
    alone = ours(seed=4, **arguments).images
    np.testing.assert_allclose(both[1], alone[0], atol=1e-4)


ERRORS = {
    "no label": ({}, "class_labels: got none, expected the number of a class for each image, 0 to 999"),
    "an empty list": ({"class_labels": []}, "class_labels: got none, expected the number of a class for each image"),
    "out of range": ({"class_labels": [1001]}, "class_labels: got 1001, .* 0 to 999, or 1000 for no class"),
    "a name": ({"class_labels": "goldfisch"}, "class_labels: got 'goldfisch', .*4 names.* Did you mean 'goldfish'"),
    "too many": ({"class_labels": [1, 2], "batch_size": 1}, "class_labels: got 2 of them, expected one, or 1"),
    "a prompt": ({"class_labels": 1, "prompt": "a cat"}, "prompt: got 'a cat', expected none: images of a class"),
    "a size": ({"class_labels": 1, "height": 32}, "height"),
    "guidance": ({"class_labels": 1, "guidance_scale": "7"}, "guidance_scale: got '7'"),
    "latents": ({"class_labels": 1, "latents": np.zeros((2, 4, 8, 8), np.float32)}, r"latents: got shape \(2, 4"),
}


def test_wrong_arguments_are_refused(pair):
    ours, _ = pair()
    for arguments, words in ERRORS.values():
        with pytest.raises(Exception, match=words) as caught:
            ours(num_inference_steps=2, **arguments)
        assert isinstance(caught.value, (InputError, TypeError)), words


def test_a_run_can_be_cancelled(pair):
    ours, _ = pair()
    run = ours.start(class_labels=1, num_inference_steps=3)
    next(iter(run))
    assert run.preview()[0].size == (16, 16)
    run.cancel()
    with pytest.raises(Exception, match="cancelled after 1 of 3"):
        run.finish()
