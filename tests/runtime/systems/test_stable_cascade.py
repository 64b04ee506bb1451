"""Both stages of Stable Cascade, and their chain, against diffusers after every step."""

import numpy as np
import pytest
from cascade_steps import as_tensors, check_chain, check_errors, check_prior, normal
from click.testing import CliRunner
from PIL.Image import fromarray
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from tiny_cascade import CHANNELS, WIDTH, make_cascade_decoder, make_cascade_prior, open_cascade_decoder
from tiny_wuerstchen import make_wuerstchen_prior

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.chain import chain

pytestmark = pytest.mark.slow

PRIOR = "StableCascadePriorPipeline"
TARGETS = ("onnxruntime", "openvino")
SIZE = {"height": 128, "width": 160}


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    return system_checkpoint("cascade-prior", make_cascade_prior), system_checkpoint(
        "cascade-decoder", make_cascade_decoder
    )


@pytest.fixture(scope="module")
def bundles(folders, exported):
    return [exported(folder, target=",".join(TARGETS)) for folder in folders]


def image(seed=0):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (36, 40, 3), np.uint8))


def texts(prompts=1, prefix=""):
    return {
        f"{prefix}prompt_embeds": normal(prompts, 77, 32, seed=1),
        f"{prefix}prompt_embeds_pooled": normal(prompts, 1, WIDTH, seed=2),
    }


PRIOR_CASES = {
    "defaults": {"prompt": "a red apple"},
    "several, of an odd size": {
        "prompt": ["a red apple", "a cat"], "negative_prompt": ["blue", "a dog"], "num_images_per_prompt": 2,
        "height": 100, "width": 200,
    },
    "no guidance": {"prompt": "a cat", "guidance_scale": 1.0},
    "images": {"prompt": ["a cat", "a dog"], "images": [image(), image(seed=1)], "guidance_scale": 2.0},
    "embeddings": {
        **texts(2), **texts(2, "negative_"), "image_embeds": normal(1, 3, 20), "latents": normal(2, CHANNELS, 3, 4),
    },
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_every_step_of_the_prior_is_diffusers(folders, bundles, target):
    ours, theirs = load(bundles[0], target=target), open_theirs(folders[0], PRIOR)
    for case in PRIOR_CASES.values():
        arguments = {"num_inference_steps": 3, **SIZE, **case}
        made, output = check_prior(ours, theirs, arguments)
        for rows, expected in zip(made.to_tuple(), output.to_tuple(), strict=False):
            np.testing.assert_allclose(rows, expected, atol=1e-4 * np.abs(expected.numpy()).max())


DECODER_CASES = {
    "defaults": {"prompt": "a red apple", "image_embeddings": normal(1, CHANNELS, 3, 4)},
    "several": {
        "prompt": ["a cat", "a dog"], "negative_prompt": ["blue", "red"], "guidance_scale": 4.0,
        "image_embeddings": normal(4, CHANNELS, 3, 4),
    },
    "several images of one": {
        "prompt": "a cat", "num_images_per_prompt": 2, "image_embeddings": normal(1, CHANNELS, 3, 4),
    },
    "odd levels": {
        "prompt": "a cat", "guidance_scale": 2.0, "image_embeddings": normal(1, CHANNELS, 1, 7),
    },
    "embeddings": {
        **texts(), "guidance_scale": 3.0, **texts(1, "negative_"), "image_embeddings": normal(1, CHANNELS, 3, 4),
        "latents": normal(1, 4, 32, 42),
    },
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_every_step_of_the_decoder_is_diffusers(folders, bundles, target):
    ours, theirs = load(bundles[1], target=target), open_cascade_decoder(folders[1])
    for case in DECODER_CASES.values():
        arguments = {"num_inference_steps": 3, **case}
        prompt = arguments.pop("prompt", None)
        compare_system(ours, theirs, prompt=prompt, ours_only=arguments, theirs_only=as_tensors(arguments))


CHAIN_CASES = {
    "defaults": {"prompt": "a red apple"},
    "guided in both": {
        "prompt": ["a red apple", "a cat"], "negative_prompt": ["blue", "a dog"], "num_images_per_prompt": 2,
        "prior_guidance_scale": 3.0, "guidance_scale": 2.0,
    },
    "images": {"prompt": "a cat", "images": [image()], "prior_num_inference_steps": 3},
}  # fmt: skip


def test_the_chain_is_the_combined_pipeline(folders, bundles):
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in bundles))
    few = {"num_inference_steps": 2, "prior_num_inference_steps": 2}
    calls = [{**SIZE, **few, **case} for case in CHAIN_CASES.values()]
    theirs = open_theirs(folders[0], PRIOR), open_cascade_decoder(folders[1])
    check_chain(ours, "StableCascadeCombinedPipeline", theirs, calls, {"guidance_scale": "decoder_guidance_scale"})


def test_generate_takes_images_for_the_prior(bundles, tmp_path):
    output, files = tmp_path / "image.png", [tmp_path / f"{seed}.png" for seed in range(2)]
    for seed, file in enumerate(files):
        image(seed).save(file)
    both = "+".join(map(str, bundles))
    engine = ["--target", "onnxruntime", "--seed", "0", "--height", "128", "--width", "160", "-o", str(output)]
    given = [both, "a cat", "--steps", "2", "--prior-steps", "2", *engine]
    result = CliRunner().invoke(generate, [*given, *(word for file in files for word in ("--prior-image", str(file)))])
    assert result.exit_code == 0, (result.output, result.exception)
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in bundles))
    settings = {"num_inference_steps": 2, "prior_num_inference_steps": 2, **SIZE}
    expected = ours("a cat", seed=0, images=[image(seed) for seed in range(2)], **settings).images[0]
    with open_image(output) as made:
        assert np.array_equal(np.asarray(made), np.asarray(expected))
    again = CliRunner().invoke(generate, [both, "--like", str(output), "-o", str(tmp_path / "again.png")])
    assert "generated with --prior-image 0.png --prior-image 1.png; pass that too" in str(again.exception)
    wrong = CliRunner().invoke(generate, [*given, "--prior-image", str(output), "--hint-image", str(output)])
    assert "--hint-image: no such argument of this pipeline" in str(wrong.exception)


PRIOR_ERRORS = {
    "no prompt": ({"prompt": None}, "prompt and prompt_embeds_pooled: got neither, expected one of them"),
    "a prompt and embeddings": (texts(), "prompt and prompt_embeds_pooled: got both"),
    "half of the embeddings": (
        {"prompt": None, "prompt_embeds_pooled": normal(1, 1, WIDTH)},
        "prompt_embeds and prompt_embeds_pooled: got one of them, expected both or none",
    ),
    "negatives twice": (
        {"negative_prompt": "blue", **texts(1, "negative_")},
        "negative_prompt and negative_prompt_embeds_pooled: got both",
    ),
    "images twice": ({"images": image(), "image_embeds": normal(1, 1, 20)}, "images and image_embeds: got both"),
    "no images": ({"images": [3]}, "images: got int, expected PIL images"),
    "an empty list": ({"images": []}, "images: got an empty list, expected PIL images"),
    "another width": ({"image_embeds": normal(1, 1, 5)}, "image_embeds: got shape .* expected floats .1, images, 20"),
    "other latents": ({"latents": normal(1, CHANNELS, 2, 2)}, "latents: got shape .* expected"),
    "another scheduler": ({"scheduler": "ddim"}, "expected DDPMWuerstchenScheduler"),
    "a size": ({"height": 0}, "height: got 0, expected a whole number of pixels"),
}

DECODER_ERRORS = {
    "no embeddings": ({"image_embeddings": None}, "image_embeddings: got none, expected those of a prior"),
    "whole numbers": (
        {"image_embeddings": np.zeros((1, 4, 3, 4), int)},
        "image_embeddings: got ndarray, expected floats",
    ),
    "other channels": ({"image_embeddings": normal(1, 5, 3, 4)}, "image_embeddings: got 5 channels, expected 4"),
    "no patches": ({"image_embeddings": normal(1, CHANNELS, 3, 2)}, "of which 21 x 32 latents would be made"),
    "other prompts": ({"prompt": ["a", "b"]}, "image_embeddings: got 1 for 2 prompts, expected the same number"),
    "another scheduler": ({"scheduler": "ddim"}, "expected DDPMWuerstchenScheduler"),
}


def test_wrong_arguments_are_refused(bundles):
    prior, decoder = (load(bundle, target="onnxruntime") for bundle in bundles)
    check_errors(prior, decoder, PRIOR_ERRORS, DECODER_ERRORS, SIZE, normal(1, CHANNELS, 3, 4))


def test_the_prior_of_wuerstchen_is_refused(bundles, system_checkpoint, exported):
    """Its latents have the name and the shape of those of Stable Cascade."""
    folder = exported(system_checkpoint("wuerstchen-prior", make_wuerstchen_prior), target=",".join(TARGETS))
    prior, decoder = load(folder, target="onnxruntime"), load(bundles[1], target="onnxruntime")
    with pytest.raises(InputError, match=r"chain: .*StableCascadeDecoderPipeline\) takes prompt_embeds_pooled, but"):
        chain(prior, decoder)
