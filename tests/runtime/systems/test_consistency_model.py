"""Consistency models against diffusers, after every step."""

import numpy as np
import pytest
from pixel_checkpoints import CHECKPOINTS
from system_pair import compare_system, open_theirs

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(system_checkpoint, exported):
    """Our pipeline and diffusers', with classes or without."""

    def open_both(classes=7, target="onnxruntime"):
        name = "consistency" if classes else "consistency-unconditional"
        folder = system_checkpoint(name, CHECKPOINTS[name])
        bundle = exported(folder, target="onnxruntime,openvino" if classes else "onnxruntime")
        return load(bundle, target=target), open_theirs(folder, "ConsistencyModelPipeline")

    return open_both


CASES = {
    "one step": (7, {"class_labels": 3}),
    "several": (7, {"class_labels": [5, 0], "batch_size": 2, "num_inference_steps": 3}),
    "own timesteps": (7, {"class_labels": [6], "timesteps": [22, 9, 0]}),
    "one label for all": (7, {"class_labels": [2], "batch_size": 3, "timesteps": [17, 0]}),
    "without classes": (None, {"batch_size": 2, "num_inference_steps": 2}),
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pair, target):
    for case, (classes, arguments) in CASES.items():
        if classes is None and target != "onnxruntime":
            continue
        ours, theirs = pair(classes, target)
        images = compare_system(ours, theirs, **arguments)
        assert images.shape[0] == arguments.get("batch_size", 1), case
        assert images.std() > 0.05, case


def test_the_caller_s_latents_are_scaled(pair):
    ours, theirs = pair()
    import torch

    latents = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    compare_system(
        ours,
        theirs,
        class_labels=[1, 2],
        batch_size=2,
        num_inference_steps=2,
        ours_only={"latents": latents},
        theirs_only={"latents": torch.from_numpy(latents)},
    )


def test_labels_decide_the_number_of_images_and_the_images(pair):
    ours, _ = pair()
    three = ours(class_labels=[1, 2, 1], seed=[0, 0, 0], output_type="np").images
    assert three.shape[0] == 3
    np.testing.assert_allclose(three[0], three[2], atol=1e-6)
    assert np.abs(three[0] - three[1]).max() > 1e-3
    assert ours.setting_arguments(3, 2.0) == {"num_inference_steps": 3, "class_labels": 0}


ERRORS = {
    "no label": (7, {}, "class_labels: got none, expected the number of a class for each image, 0 to 6"),
    "out of range": (7, {"class_labels": 7}, "class_labels: got 7, expected the number of a class, 0 to 6"),
    "negative": (7, {"class_labels": [-1]}, "class_labels: got -1, expected"),
    "a fraction": (7, {"class_labels": 1.5}, "class_labels: got 1.5, expected"),
    "a name": (7, {"class_labels": "cat"}, "class_labels: got 'cat', expected a number, 0 to 6: .*no names of classes"),
    "too many": (7, {"class_labels": [1, 2], "batch_size": 3}, "class_labels: got 2 of them, expected one, or 3"),
    "a label without classes": (None, {"class_labels": 1}, "class_labels: got 1, expected none: this model has no"),
    "a prompt": (7, {"prompt": "a cat", "class_labels": 1}, "prompt: got 'a cat', expected none"),
    "timesteps": (7, {"class_labels": 1, "timesteps": [0, 9]}, "timesteps"),
    "half a timestep": (7, {"class_labels": 1, "timesteps": [2.5]}, r"got timesteps \[2.5\], expected integers"),
    "no timesteps": (7, {"class_labels": 1, "timesteps": "abc"}, "timesteps: got 'abc', expected a list of numbers"),
    "no steps": (7, {"class_labels": 1, "num_inference_steps": 0}, "num_inference_steps: got 0"),
    "steps unsaid": (7, {"class_labels": 1, "num_inference_steps": None}, "num_inference_steps: got None"),
}


def test_wrong_arguments_are_refused(pair):
    for classes, arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            pair(classes)[0](**arguments)
