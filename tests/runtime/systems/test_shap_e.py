"""Shap-E's pipelines against diffusers, after every step, and what they refuse."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL.Image import fromarray
from system_pair import compare_system, open_theirs
from tiny_shap_e import NAMES, SIDE, TOKENS, WIDTH, make_shap_e

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.runtime import load
from diffoundry.runtime.errors import ConfigError, InputError, UnknownArgumentError

pytestmark = pytest.mark.slow

TEXT, IMAGE = NAMES
SHARK = "a shark"
STEPS = 5
"""With fewer the noise falls so far in one step that errors of 1e-6 grow above 1e-4."""


@pytest.fixture(scope="module")
def pair(system_checkpoint, exported):
    """Bundle and diffusers' pipeline of a class."""

    def open_both(name, target=None):
        folder = system_checkpoint(name, partial(make_shap_e, name=name))
        targets = target or ("onnxruntime,openvino" if name == TEXT else "onnxruntime")
        return exported(folder, target=targets), open_theirs(folder, name)

    return open_both


def picture(seed=0, width=21, height=19):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def noise(rows=1, seed=5):
    return np.random.default_rng(seed).standard_normal((rows, TOKENS * WIDTH)).astype(np.float32)


def given(name, value, ours=None):
    """An argument that diffusers takes as a tensor."""
    return {"ours_only": {name: value if ours is None else ours}, "theirs_only": {name: torch.from_numpy(value)}}


TEXT_CASES = (
    {"prompt": SHARK},
    {"prompt": [SHARK, "a red apple"], "num_images_per_prompt": 2, "guidance_scale": 3.0},
    {"prompt": ["", SHARK], "guidance_scale": 1.0},
    {"prompt": "a very long shark " * 40, "num_inference_steps": 1},
    {"prompt": SHARK, **given("latents", noise())},
)


def test_every_step_is_diffusers_with_a_prompt(pair):
    bundle, theirs = pair(TEXT)
    for target in ("onnxruntime", "openvino"):
        ours = load(bundle, target=target)
        for case in TEXT_CASES:
            latents = compare_system(ours, theirs, output_type="latent", **{"num_inference_steps": STEPS, **case})
            prompts = case["prompt"] if isinstance(case["prompt"], list) else [case["prompt"]]
            assert latents.shape == (len(prompts) * case.get("num_images_per_prompt", 1), TOKENS, WIDTH)
            assert np.abs(latents).max() < 1 + 1e-6


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers_with_an_image(pair, target):
    bundle, theirs = pair(IMAGE, target)
    pictures = [picture(), picture(1)]
    pixels = theirs.image_processor(pictures, return_tensors="np").pixel_values
    cases = (
        {"image": pictures[0]},
        {"image": pictures[0], "num_images_per_prompt": 2, "guidance_scale": 1.0},
        # diffusers sees the first of several PIL images alone
        {**given("image", pixels, pictures), "num_images_per_prompt": 2},
        given("image", pixels),
        {"image": pictures[0], **given("latents", 10 * noise())},
    )
    ours = load(bundle)
    for case in cases:
        compare_system(ours, theirs, output_type="latent", **{"num_inference_steps": STEPS, **case})


def test_results_seeds_and_callbacks(pair):
    ours = load(pair(TEXT)[0])
    run = ours.start(SHARK, seed=0, num_inference_steps=STEPS)
    seen = [step.latents for step in run]
    assert len(seen) == run.total == 2 * STEPS - 1
    with pytest.raises(InputError, match="preview: got step 9 of 9"):
        run.preview()
    result = run.finish()
    np.testing.assert_array_equal(result.images, seen[-1])
    assert result.seed == 0
    assert ours(SHARK, seed=0, num_inference_steps=STEPS, return_dict=False)[0].shape == (1, TOKENS, WIDTH)
    both = ours(SHARK, num_images_per_prompt=2, seed=[3, 4], num_inference_steps=1).images
    np.testing.assert_array_equal(both[1:], ours(SHARK, seed=4, num_inference_steps=1).images)
    whole = ours(SHARK, latents=noise().reshape(1, TOKENS, WIDTH), num_inference_steps=1).images
    np.testing.assert_array_equal(whole, ours(SHARK, latents=noise(), num_inference_steps=1).images)
    cleared = ours(SHARK, callback_on_step_end=lambda *given: {"latents": given[3]["latents"] * 0}, seed=0)
    assert not cleared.images.any()
    assert ours([SHARK, "apple " * 90], num_inference_steps=1, seed=0).truncated[1].startswith("apple apple")


RENDERER = r"a bundle of Shap-E makes latents, and has no renderer \(ShapERenderer\); render the latents with diffusers"

ERRORS = (
    (TEXT, {"output_type": "pil"}, rf"output_type: got 'pil', expected 'latent': {RENDERER}"),
    (TEXT, {"output_type": "mesh"}, rf"output_type: got 'mesh', expected 'latent': {RENDERER}"),
    (IMAGE, {"output_type": "np"}, rf"output_type: got 'np', expected 'latent': {RENDERER}"),
    (TEXT, {"frame_size": 64}, f"frame_size: got 64, expected none: {RENDERER}"),
    (IMAGE, {"frame_size": 64}, f"frame_size: got 64, expected none: {RENDERER}"),
    (TEXT, {"prompt": None}, "prompt: got none, expected a text"),
    (TEXT, {"negative_prompt": "dog"}, "negative_prompt: got 'dog', expected none: this checkpoint is guided away"),
    (IMAGE, {"negative_prompt": "dog"}, "negative_prompt: got 'dog', expected none: this checkpoint takes no text"),
    (IMAGE, {"prompt": SHARK}, "prompt: got 'a shark', expected none: latents of an object in an image are what"),
    (IMAGE, {"image": None}, "image: got none, expected an image of an object"),
    (IMAGE, {"image": []}, "image: got an empty list, expected at least one image"),
    (TEXT, {"guidance_scale": -1.0}, "guidance_scale: got -1.0, expected a number of at least 0"),
    (TEXT, {"num_inference_steps": 0}, "num_inference_steps: got 0, expected a whole number of at least 1"),
    (TEXT, {"latents": noise(2)}, r"latents: got shape \(2, 512\), expected \(1, 32, 16\)"),
    (TEXT, {"height": 64}, "height"),
    (TEXT, {"image": picture()}, "image"),
)  # fmt: skip


def test_wrong_arguments_are_refused_before_the_first_step(pair):
    pipelines = {name: load(pair(name)[0]) for name in NAMES}
    for name, arguments, words in ERRORS:
        usual = {"prompt": SHARK} if name == TEXT else {"image": picture()}
        with pytest.raises((InputError, UnknownArgumentError), match=words):
            pipelines[name].start(**{**usual, **arguments})
    assert all(pipeline.session.opened == () for pipeline in pipelines.values())


CONFIGS = (
    (TEXT, "encoder_hid_proj_type", "linear", "'encoder_hid_proj_type': got 'linear', expected null, as in Shap-E"),
    (IMAGE, "clip_embed_dim", WIDTH, "'clip_embed_dim': got 16, expected 32, twice embedding_dim: Shap-E's prior"),
)


def test_a_checkpoint_has_a_prior_for_objects(tmp_path):
    for name, field, value, words in CONFIGS:
        make_shap_e(tmp_path / name, name)
        index = tmp_path / name / "model_index.json"
        parts = json.loads(index.read_text())
        index.write_text(json.dumps({**parts, "renderer": parts["shap_e_renderer"]}))  # as published
        assert open_checkpoint(str(tmp_path / name)).notices() == [
            f"{part} of the checkpoint is left out: a bundle makes latents, and diffusers renders them"
            for part in ("renderer", "shap_e_renderer")
        ]
        path = tmp_path / name / "prior/config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
        with pytest.raises(ConfigError, match=words):
            open_checkpoint(str(tmp_path / name))


def test_image_tokens_are_those_of_the_encoder(pair):
    specs = {spec.name: spec.shape for spec in load(pair(IMAGE)[0]).session.inputs("prior")}
    assert specs["proj_embedding"] == ("batch", (SIDE // 8) ** 2, 32)
