"""Text to image by latent diffusion against diffusers: BERT, guidance, schedulers, sizes, errors."""

import diffusers
import numpy as np
import pytest
import torch
from ldm_checkpoints import LDM_CHECKPOINTS, make_text_to_image
from system_pair import compare_system, open_theirs

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.rehearse import rehearse
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import CheckpointError, InputError, UnknownArgumentError

pytestmark = pytest.mark.slow

NAME = "LDMTextToImagePipeline"


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint(NAME, LDM_CHECKPOINTS[NAME])


@pytest.fixture(scope="module")
def bundle(folder, exported):
    return exported(folder, target="onnxruntime,openvino")


@pytest.fixture(scope="module")
def ours(bundle):
    return load(bundle)


@pytest.fixture
def theirs(folder):
    """With the sides of the default size, which diffusers takes from a number alone."""
    return open_theirs(folder, NAME)


CAT = "The cat, unaffable"
CASES = {
    "no guidance": (CAT, {}),
    "guidance": (CAT, {"guidance_scale": 5.0}),
    "less than none": ([CAT, "a very long apple " * 30], {"guidance_scale": 0.4}),
    "odd sizes": (["", "painting"], {"guidance_scale": 2.0, "height": 40, "width": 72}),
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(bundle, theirs, target):
    ours = load(bundle, target=target)
    for name, (prompt, arguments) in CASES.items():
        if target == "openvino" and name != "odd sizes":
            continue
        sizes = {"height": 32, "width": 48}
        compare_system(ours, theirs, prompt=prompt, num_inference_steps=3, **{**sizes, **arguments})


def test_schedulers_see_latents_as_they_are(ours, theirs):
    """diffusers multiplies neither the noise nor the model's input, whatever the scheduler."""
    sizes = {"height": 32, "width": 32, "guidance_scale": 3.0}
    for kind in ("PNDMScheduler", "LMSDiscreteScheduler"):
        theirs.scheduler = getattr(diffusers, kind).from_config(theirs.scheduler.config)
        compare_system(ours, theirs, prompt=CAT, num_inference_steps=5, ours_only={"scheduler": kind}, **sizes)


def test_eta_and_own_latents(ours, theirs):
    sizes = {"height": 32, "width": 32, "num_inference_steps": 3}
    compare_system(ours, theirs, prompt=CAT, eta=0.5, global_noise=True, **sizes)
    latents = np.random.default_rng(0).standard_normal((1, 4, 4, 4), np.float32)
    own = {"ours_only": {"latents": latents}, "theirs_only": {"latents": torch.from_numpy(latents)}}
    compare_system(ours, theirs, prompt=CAT, **own, **sizes)


def test_several_images_of_a_prompt_are_a_repeated_prompt(ours):
    options = {"seed": 0, "guidance_scale": 2.0, "num_inference_steps": 2, "output_type": "np"}
    result = ours(["cat", "apple " * 90], num_images_per_prompt=2, **options)
    assert result.images.shape == (4, 32, 48, 3)
    assert result.truncated[0] == ""
    assert result.truncated[1].startswith("apple apple")
    repeated = ours(["cat", "cat", "apple " * 90, "apple " * 90], **options)
    np.testing.assert_array_equal(result.images, repeated.images)
    assert np.abs(result.images[0] - result.images[2]).max() > 1e-3


def test_the_bundle_has_a_tokenizer_of_its_own(bundle, ours):
    opened = Bundle(bundle)
    assert opened.has("tokenizer/tokenizer.json")
    assert opened.network("bert") == "LDMBertModel"
    assert ours.default_size == (32, 48)


ERRORS = (
    ({"prompt": None}, "prompt: got none, expected a text"),
    ({"prompt": []}, r"prompt: got \[\], expected a string or a list of at least one"),
    (
        {"negative_prompt": "dog"},
        "negative_prompt: got 'dog', expected none: this checkpoint is guided away from the emp",
    ),
    ({"guidance_scale": -1.0}, "guidance_scale: got -1.0, expected a number of at least 0"),
    ({"eta": 2.0}, "eta: got 2.0"),
    ({"height": 36}, r"height: got 36, expected a multiple of 8 \(pixels to a latent\)"),
    ({"latents": np.zeros((1, 4, 8, 8), np.float32)}, r"latents: got shape \(1, 4, 8, 8\), expected \(1, 4, 4, 6\)"),
    ({"image": np.zeros((8, 8, 3))}, "image"),
    ({"prompt_embeds": np.zeros((1, 77, 16), np.float32)}, "prompt_embeds"),
)


def test_wrong_arguments_are_refused(ours):
    for arguments, words in ERRORS:
        with pytest.raises((InputError, UnknownArgumentError), match=words):
            ours(**{"prompt": CAT, "num_inference_steps": 2, **arguments})


def test_a_vae_of_another_factor_is_refused(tmp_path):
    make_text_to_image(tmp_path, levels=3)
    opened = open_checkpoint(str(tmp_path))
    with pytest.raises(
        CheckpointError, match="got a VAE of 4 pixels to a latent, expected 8 in a LDMTextToImagePipelin"
    ):
        rehearse(
            opened, make_recipe(opened, ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),)))
        )
