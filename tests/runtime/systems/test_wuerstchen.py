"""Both stages of Würstchen, and their chain, against diffusers after every step."""

import numpy as np
import pytest
from cascade_steps import as_tensors, check_chain, check_errors, check_prior, normal
from click.testing import CliRunner
from PIL.Image import open as open_image
from system_pair import TOLERANCE, compare_system
from tiny_wuerstchen import CHANNELS, make_wuerstchen_decoder, make_wuerstchen_prior, open_wuerstchen

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.pipelines.chain import chain

pytestmark = pytest.mark.slow

TARGETS = ("onnxruntime", "openvino")
TIMES = [1.0, 0.7, 0.2, 0.0]
SIZE = {"height": 128, "width": 256}


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    made = {"prior": make_wuerstchen_prior, "decoder": make_wuerstchen_decoder}
    return [system_checkpoint(f"wuerstchen-{name}", make) for name, make in made.items()]


@pytest.fixture(scope="module")
def bundles(folders, exported):
    return [exported(folder, target=",".join(TARGETS)) for folder in folders]


PRIOR_CASES = {
    "defaults": {"prompt": "a red apple"},
    "several, of an odd size": {
        "prompt": ["a red apple", "a cat"], "negative_prompt": ["blue", "a dog"], "num_images_per_prompt": 2,
        "height": 100, "width": 200, "guidance_scale": 3.0,
    },
    "no guidance": {"prompt": "a cat", "guidance_scale": 1.0, "timesteps": TIMES},
    "embeddings": {
        "prompt_embeds": normal(2, 77, 32), "negative_prompt_embeds": normal(2, 77, 32, seed=1),
        "latents": normal(2, CHANNELS, 3, 6),
    },
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_every_step_of_the_prior_is_diffusers(folders, bundles, target):
    ours, theirs = load(bundles[0], target=target), open_wuerstchen(folders[0])
    for case in PRIOR_CASES.values():
        arguments = {"num_inference_steps": 3, **SIZE, **case}
        made, output = check_prior(ours, theirs, arguments)
        (made,), expected = made.to_tuple(), output.image_embeddings.numpy()
        assert np.abs(made - expected).max() < TOLERANCE * np.sqrt(np.mean(expected**2))


DECODER_CASES = {
    "defaults": {"image_embeddings": normal(1, CHANNELS, 3, 6)},
    "guided": {
        "image_embeddings": normal(1, CHANNELS, 6, 3), "negative_prompt": "blue", "guidance_scale": 4.0,
        "timesteps": TIMES,
    },
    "several images of one": {"image_embeddings": normal(2, CHANNELS, 3, 3), "guidance_scale": 2.0},
    "latents": {"image_embeddings": normal(1, CHANNELS, 3, 3), "latents": normal(1, 4, 32, 32)},
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_every_step_of_the_decoder_is_diffusers(folders, bundles, target):
    ours, theirs = load(bundles[1], target=target), open_wuerstchen(folders[1])
    for case in DECODER_CASES.values():
        arguments = {"num_inference_steps": 3, **case}
        compare_system(ours, theirs, prompt="a cat", ours_only=arguments, theirs_only=as_tensors(arguments))


def test_each_prompt_of_a_decoder_has_its_images(bundles):
    """diffusers' decoder takes one prompt, and one image for each embedding."""
    ours, features = load(bundles[1], target="onnxruntime"), normal(2, CHANNELS, 3, 3)
    common = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"}
    prompts, negatives = ["a cat", "a dog"], ["blue", "red"]
    made = ours(
        prompts, negative_prompt=negatives, image_embeddings=list(features[:, None]), num_images_per_prompt=2,
        seed=[0, 1, 2, 3], **common,
    ).images  # fmt: skip
    for index in range(4):
        row = index // 2
        alone = {"negative_prompt": negatives[row], "image_embeddings": features[row : row + 1], "seed": index}
        expected = ours(prompts[row], **alone, **common).images
        np.testing.assert_allclose(made[index : index + 1], expected, atol=1e-4 * np.abs(expected).max())


CHAIN_CASES = {
    "defaults": {"prompt": "a red apple"},
    "guided in both": {
        "prompt": "a red apple", "negative_prompt": "blue", "num_images_per_prompt": 2, "prior_guidance_scale": 3.0,
        "guidance_scale": 2.0,
    },
    "timesteps": {"prompt": "a cat", "prior_timesteps": TIMES, "timesteps": TIMES[:1] + TIMES[2:]},
    "embeddings": {"prompt_embeds": normal(1, 77, 32), "negative_prompt_embeds": normal(1, 77, 32, seed=1)},
}  # fmt: skip

THEIRS = {"guidance_scale": "decoder_guidance_scale", "timesteps": "decoder_timesteps"}


def test_the_chain_is_the_combined_pipeline(folders, bundles):
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in bundles))
    few = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "prior_guidance_scale": 8.0}
    calls = [{**SIZE, **few, **case} for case in CHAIN_CASES.values()]
    check_chain(ours, "WuerstchenCombinedPipeline", map(open_wuerstchen, folders), calls, THEIRS)


def test_generate_takes_timesteps_of_both_stages(bundles, tmp_path):
    output, both = tmp_path / "image.png", "+".join(map(str, bundles))
    times = [word for time in TIMES for word in ("--prior-timestep", str(time))]
    engine = ["--target", "onnxruntime", "--seed", "0", "--height", "128", "--width", "256", "-o", str(output)]
    given = [both, "a cat", *times, "--timestep", "1", "--timestep", "0.5", "--timestep", "0", *engine]
    result = CliRunner().invoke(generate, given)
    assert result.exit_code == 0, (result.output, result.exception)
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in bundles))
    expected = ours("a cat", seed=0, prior_timesteps=TIMES, timesteps=[1, 0.5, 0], **SIZE).images[0]
    with open_image(output) as made:
        assert np.array_equal(np.asarray(made), np.asarray(expected))
    again = tmp_path / "again.png"
    result = CliRunner().invoke(generate, [both, "--like", str(output), "--target", "onnxruntime", "-o", str(again)])
    assert result.exit_code == 0, (result.output, result.exception)
    with open_image(again) as made:
        assert np.array_equal(np.asarray(made), np.asarray(expected))
    wrong = CliRunner().invoke(generate, [both, "a cat", "--prior-timestep", "2", *engine])
    assert "--prior-timestep: got [2.0], expected two or more numbers from 1 to 0" in str(wrong.exception)


PRIOR_ERRORS = {
    "no prompt": ({"prompt": None}, "prompt and prompt_embeds: got neither, expected one of them"),
    "a prompt and embeddings": ({"prompt_embeds": normal(1, 77, 32)}, "prompt and prompt_embeds: got both"),
    "another width": (
        {"prompt": None, "prompt_embeds": normal(1, 77, 5)},
        r"prompt_embeds and negative_prompt_embeds: got shapes \(1, 77, 5\) and \(1, 77, 32\)",
    ),
    "negatives twice": (
        {"negative_prompt": "blue", "negative_prompt_embeds": normal(1, 77, 32)},
        "negative_prompt and negative_prompt_embeds: got both",
    ),
    "embeddings of others": (
        {"negative_prompt_embeds": normal(2, 77, 32)},
        r"negative_prompt_embeds: got shape \(2, 77, 32\), expected floats \(1, tokens, width\)",
    ),
    "rising timesteps": (
        {"timesteps": [0.0, 1.0]},
        r"timesteps: got \[0.0, 1.0\], expected two or more numbers from 1 to 0, descending",
    ),
    "training steps": ({"timesteps": [999, 500, 0]}, "expected two or more numbers from 1 to 0"),
    "one timestep": ({"timesteps": [1.0]}, "expected two or more numbers from 1 to 0"),
    "words": ({"timesteps": ["1"]}, "timesteps: got .*, expected a list of numbers"),
    "other latents": ({"latents": normal(1, CHANNELS, 2, 2)}, "latents: got shape .* expected"),
    "another scheduler": ({"scheduler": "ddim"}, "expected DDPMWuerstchenScheduler"),
    "a size": ({"height": 0}, "height: got 0, expected a whole number of pixels"),
}

DECODER_ERRORS = {
    "no embeddings": ({"image_embeddings": None}, "image_embeddings: got none, expected those of a prior"),
    "other channels": ({"image_embeddings": normal(1, 5, 3, 3)}, "image_embeddings: got 5 channels, expected 4"),
    "halves of levels": (
        {"image_embeddings": normal(1, CHANNELS, 3, 4)},
        "got 4 x 3, of which 42 x 32 latents would be made, expected multiples of 4",
    ),
    "other prompts": ({"prompt": ["a", "b"]}, "image_embeddings: got 1 for 2 prompts, expected the same number"),
    "other negatives": ({"negative_prompt": ["a", "b"]}, "negative_prompt: got 2 entries, expected a string or 1"),
}


def test_wrong_arguments_are_refused(bundles):
    prior, decoder = (load(bundle, target="onnxruntime") for bundle in bundles)
    check_errors(prior, decoder, PRIOR_ERRORS, DECODER_ERRORS, SIZE, normal(1, CHANNELS, 3, 3))
