"""The safety checker against diffusers': flag_images, black images, every task, and how it is turned off."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from device_precisions import requires_precision
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.models.safety_checker import flag_images

SEEDS = [0, 1, 2, 3]
SETTINGS = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def folder(tiny_sd_checkpoint):
    return tiny_sd_checkpoint("sd1-checked")


@pytest.fixture(scope="module")
def theirs(folder):
    return diffusers_pipeline(folder)


@pytest.fixture(scope="module")
def bundle(wide_bundle):
    return wide_bundle("sd1-checked")


@pytest.fixture(scope="module")
def ours(bundle):
    return load(bundle)


def flags_of(pipe, prompt, seeds, **arguments):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(prompt, generator=generators, output_type="np", **arguments).nsfw_content_detected


@pytest.mark.parametrize("spread", [0.3, 0.01, 0.003])
def test_scores_become_the_flag_images_of_diffusers(spread):
    """Thousands of scores around the thresholds, so near that rounding and the stricter judgement decide."""
    random = torch.Generator().manual_seed(0)
    embeds = torch.randn(400, 20, generator=random)
    cosines = torch.nn.functional.normalize(embeds)
    thresholds = cosines[0] + 0.44 * spread
    embeds = embeds[:1] + spread * torch.randn(400, 20, generator=random)
    cosines = torch.nn.functional.normalize(embeds)
    concepts = torch.eye(20)
    checker = SimpleNamespace(
        vision_model=lambda pixels: (None, pixels),
        visual_projection=lambda pooled: pooled,
        special_care_embeds=concepts[:3],
        concept_embeds=concepts[3:],
        special_care_embeds_weights=thresholds[:3],
        concept_embeds_weights=thresholds[3:],
    )
    _, expected = StableDiffusionSafetyChecker.forward(checker, embeds, [np.zeros(1)] * 400)
    scores = (cosines - thresholds).numpy()
    assert flag_images(scores[:, :3], scores[:, 3:]) == expected
    assert 0 < sum(expected) < 400


def test_flagged_images_are_black_and_told(ours, theirs):
    arguments = {"seed": SEEDS, "num_images_per_prompt": 4, **SETTINGS}
    compare(ours, theirs, "a cat", **arguments)
    compare(ours, theirs, "a cat", output_type="pil", **arguments)
    expected = flags_of(theirs, "a cat", SEEDS, num_images_per_prompt=4, **SETTINGS)
    assert {True, False} == set(expected)
    result = ours("a cat", **arguments)
    assert result.nsfw_content_detected == expected
    assert [np.asarray(image).max() == 0 for image in result.images] == expected


def test_latents_are_not_looked_at_and_previews_are(ours):
    assert ours("a cat", seed=1, output_type="latent", **SETTINGS).nsfw_content_detected is None
    run = ours.start("a cat", seed=1, **SETTINGS)
    result = run.finish()
    assert result.nsfw_content_detected == [True]
    assert not np.asarray(run.preview()[0]).any()


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_give_the_scores_of_diffusers(bundle, theirs, target, precision):
    """Within 2e-6 in fp32; fp16 rounds activations of a few units to 1e-3, which moves a cosine by as much."""
    requires_precision(target, precision)
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (48, 40, 3), np.uint8)) for _ in range(5)]
    pixels = theirs.feature_extractor(images, return_tensors="pt").pixel_values
    checker = theirs.safety_checker
    with torch.no_grad():
        embeds = checker.visual_projection(checker.vision_model(pixels)[1])
        near = torch.nn.functional.cosine_similarity(embeds[:, None], checker.concept_embeds[None], dim=-1)
        expected = (near - checker.concept_embeds_weights).numpy()
    pipe = load(bundle, target=target, precision=precision)
    scores = pipe.session.run("safety_checker", {"clip_input": pixels.numpy()})
    np.testing.assert_allclose(scores["concept_scores"], expected, atol=1e-5 if precision == "fp32" else 1e-2)
    assert scores["special_scores"].shape == (5, 3)


def test_turned_off(bundle, folder, ours, theirs):
    for off in (load(bundle, safety_checker=None), load(bundle, safety_checker=False)):
        assert "safety_checker" not in off.used_components
        result = off("a cat", seed=1, output_type="np", **SETTINGS)
        assert result.nsfw_content_detected is None
        assert result.images.max() > 0.5
    assert "safety_checker" in ours.used_components
    unchecked = diffusers_pipeline(folder, safety_checker=None)
    compare(off, unchecked, "a cat", seed=1, **SETTINGS)


def test_every_task_of_the_checkpoint(ours, folder):
    random = np.random.default_rng(3)
    image = Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8))
    mask = Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((32, 32))).astype(np.uint8))
    seen = set()
    for name, more in (("Img2Img", {"image": image}), ("Inpaint", {"image": image, "mask_image": mask})):
        theirs = diffusers_pipeline(folder, f"StableDiffusion{name}Pipeline")
        for seed in (0, 1, 2):
            arguments = {**more, "num_inference_steps": 3, "strength": 0.9}
            compare(ours, theirs, "a dog", seed=seed, **arguments)
            expected = flags_of(theirs, "a dog", [seed], **arguments)
            assert ours("a dog", seed=seed, **arguments).nsfw_content_detected == expected
            seen |= set(expected)
    assert seen == {True, False}


def test_a_black_part_is_put_into_the_image_as_diffusers_does(ours, folder):
    random = np.random.default_rng(4)
    image = Image.fromarray(random.integers(0, 256, (96, 80, 3), np.uint8))
    mask = Image.new("L", image.size)
    mask.paste(255, (20, 30, 60, 60))
    theirs = diffusers_pipeline(folder, "StableDiffusionInpaintPipeline")
    flags = []
    for seed in (0, 1, 2, 3):
        arguments = {"image": image, "mask_image": mask, "padding_mask_crop": 8, **SETTINGS, "output_type": "pil"}
        compare(ours, theirs, "a dog", seed=seed, height=64, width=64, **arguments)
        flags += ours("a dog", seed=seed, height=64, width=64, **arguments).nsfw_content_detected
    assert set(flags) == {True, False}


def test_a_bundle_without_a_feature_extractor(bundle, tmp_path):
    import json
    import shutil

    broken = shutil.copytree(bundle, tmp_path / "broken")
    manifest = json.loads((broken / "diffoundry.json").read_text())
    del manifest["files"]["feature_extractor/preprocessor_config.json"]
    (broken / "diffoundry.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="got no file 'feature_extractor/preprocessor_config.json'"):
        load(broken)
    load(broken, safety_checker=None)


def test_a_feature_extractor_of_another_size_is_refused(bundle):
    pipe = load(bundle)
    assert isinstance(pipe.session, EngineSession)
    pipe.safety_checker.extractor = type(pipe.safety_checker.extractor)()  # CLIP's own 224 pixels
    with pytest.raises(InputError, match=r"clip_input.*\(1, 3, 224, 224\)"):
        pipe("a cat", seed=1, **SETTINGS)
