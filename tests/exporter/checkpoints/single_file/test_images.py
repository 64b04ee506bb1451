"""A bundle of a single file: the images of diffusers' `from_single_file`, and of the folder's bundle."""

from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from pipeline_harness import compare
from single_files import write_tensors

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.verify.checkpoint_source import find_checkpoint, identity_notes
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import Recipe

pytestmark = pytest.mark.slow

SETTINGS = {"num_inference_steps": 4, "negative_prompt": "blue"}


@pytest.mark.parametrize(
    ("variant", "pipeline"), [("sd2", "StableDiffusionPipeline"), ("xl", "StableDiffusionXLPipeline")]
)
def test_it_generates_as_diffusers_and_as_the_folder(
    variant, pipeline, exported, tiny_file, tiny_sd_checkpoint, tiny_architecture
):
    folder, path = tiny_sd_checkpoint(variant), tiny_file(variant)
    tiny_architecture(variant)
    bundle = exported(path)
    theirs = getattr(diffusers, pipeline).from_single_file(
        str(path), config=str(folder), local_files_only=True, torch_dtype=torch.float32
    )
    theirs.set_progress_bar_config(disable=True)
    _, images = compare(load(bundle), theirs, "a red apple", **SETTINGS)
    of_folder = load(exported(folder))("a red apple", seed=0, output_type="np", **SETTINGS).images
    np.testing.assert_array_equal(images, of_folder)
    opened = Bundle(bundle)
    assert list(identity_notes(opened, find_checkpoint(opened))) == []


def test_the_recipe_remembers_the_prediction_type(tiny_tensors, tiny_architecture, tmp_path):
    path = write_tensors(tiny_tensors("sd2"), tmp_path / "unsaid.safetensors")
    tiny_architecture("sd2")
    checkpoint = open_checkpoint(str(path), prediction_type="v_prediction")
    recipe = Recipe(model=str(path), source=checkpoint.identity(), variants=(), dims={}, opset=0)
    bundle = SimpleNamespace(root="b", manifest=SimpleNamespace(recipe=recipe))
    again = find_checkpoint(bundle)
    assert again.scheduler_config["prediction_type"] == "v_prediction"
    assert list(identity_notes(bundle, again)) == []
    other = open_checkpoint(str(path), prediction_type="epsilon")
    assert "prediction_type" in "".join(identity_notes(bundle, other))
