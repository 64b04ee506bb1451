"""The pipeline against diffusers' own: latents after every step, the picture, and everything that may be asked for."""

import threading
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import TorchCpuGenerator

# float32 through 20 UNet calls by two libraries that sum in different orders: seen are 5e-6 to 3e-5 on latents of
# scale 1. A wrong coefficient, timestep or noise shows as 1e-2 and more.
_TOLERANCE = 1e-4

_EMOJI = Path(__file__).parents[3] / "models/emoji"


@pytest.fixture(scope="module")
def emoji(emoji_bundle):
    return load(emoji_bundle)


@pytest.fixture(scope="module")
def emoji_diffusers():
    return _diffusers_pipeline(_EMOJI)


def _diffusers_pipeline(folder):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _reference(pipe, prompt, generator, **arguments):
    """diffusers' latents after every step, and its picture as an array (B, H, W, 3)."""
    latents = []

    def keep(_pipe, _index, _timestep, values):
        latents.append(values["latents"].numpy().copy())
        return {}

    images = pipe(prompt, generator=generator, callback_on_step_end=keep, output_type="np", **arguments).images
    return latents, images


def _compare(ours, theirs, prompt, *, seed=0, ours_only=None, **arguments):
    seeds = seed if isinstance(seed, list) else [seed]
    torch_generators = [torch.Generator().manual_seed(value) for value in seeds]
    generator = torch_generators if isinstance(seed, list) else torch_generators[0]
    latents, images = _reference(theirs, prompt, generator, **arguments)
    run = ours.start(prompt, seed=seed, output_type="np", **arguments, **(ours_only or {}))
    for step, expected in zip(run, latents, strict=True):
        error = np.abs(step.latents - expected).max() / max(1.0, np.abs(expected).max())
        assert error < _TOLERANCE, f"step {step.index}: {error}"
    np.testing.assert_allclose(run.finish().images, images, atol=2e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_inference_steps": 12, "guidance_scale": 4.0},
        {"num_inference_steps": 6, "guidance_scale": 1.0},
        {"num_inference_steps": 6, "guidance_scale": 0.0},
        {"num_inference_steps": 6, "guidance_scale": 5.0, "negative_prompt": "blue", "guidance_rescale": 0.7},
        {"num_inference_steps": 6, "eta": 0.8},
        {"num_inference_steps": 5, "num_images_per_prompt": 2},
        {"num_inference_steps": 4, "height": 128, "width": 64},
    ],
    ids=lambda arguments: " ".join(f"{key}={value}" for key, value in arguments.items()),
)
def test_every_step_is_diffusers(emoji, emoji_diffusers, arguments):
    _compare(emoji, emoji_diffusers, "a red apple", **arguments)


def test_batches_of_prompts_with_their_own_negatives_and_seeds(emoji, emoji_diffusers):
    arguments = {"negative_prompt": ["blue", ""], "num_inference_steps": 5}
    _compare(emoji, emoji_diffusers, ["a red apple", "a cat face"], seed=[3, 4], **arguments)


# Every scheduler of diffusers that samples forwards in time from a v-prediction model with the betas of its config.
_SCHEDULERS = {
    "DDIM": {},
    "DDIMParallel": {},
    "DDPM": {},
    "DDPMParallel": {},
    "DEISMultistep": {},
    "DPMSolverMultistep": {"use_karras_sigmas": True},
    "DPMSolverSDE": {"noise_sampler_seed": 3},  # without it diffusers draws a path of its own every time
    "DPMSolverSinglestep": {},
    "EulerAncestralDiscrete": {},
    "EulerDiscrete": {},
    "HeunDiscrete": {},
    "KDPM2AncestralDiscrete": {},
    "KDPM2Discrete": {},
    "LCM": {},
    "LMSDiscrete": {},
    "PNDM": {},
    "SASolver": {},
    "TCD": {},
    "UniPCMultistep": {},
}


@pytest.mark.parametrize("name", _SCHEDULERS)
def test_another_scheduler_takes_over_the_config(emoji, name):
    theirs = _diffusers_pipeline(_EMOJI)
    config = {**theirs.scheduler.config, **_SCHEDULERS[name]}
    theirs.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(config)
    ours = load(emoji.components.bundle.root)
    ours.scheduler_config = {**ours.scheduler_config, **_SCHEDULERS[name]}
    _compare(ours, theirs, "a rocket", num_inference_steps=8, ours_only={"scheduler": name})


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM"])
def test_old_scheduler_configs_are_mended_as_diffusers_does(emoji, emoji_diffusers, name):
    scheduler = emoji_diffusers.scheduler.config
    config = {key: value for key, value in scheduler.items() if key not in ("steps_offset", "clip_sample")}
    parts = {**emoji_diffusers.components, "scheduler": getattr(diffusers, f"{name}Scheduler").from_config(config)}
    theirs = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    ours = load(emoji.components.bundle.root)
    ours.scheduler_config = {**config, "_class_name": f"{name}Scheduler"}
    _compare(ours, theirs, "a rocket", num_inference_steps=8)


@pytest.mark.parametrize("variant", ["sd1", "sd2"])
def test_other_architectures(exported, tiny_sd_checkpoint, variant):
    folder = tiny_sd_checkpoint(variant)
    arguments = {"num_inference_steps": 5, "height": 72, "width": 64}
    _compare(load(exported(folder)), _diffusers_pipeline(folder), "anything at all", **arguments)


def test_generator_and_latents_in_place_of_a_seed(emoji):
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    seeded = emoji("a fish", seed=5, **settings)
    assert seeded.seed == 5
    generated = emoji("a fish", generator=TorchCpuGenerator(5), **settings)
    assert generated.seed is None
    handed = emoji("a fish", latents=TorchCpuGenerator(5).randn((1, 4, 8, 8)), **settings)
    np.testing.assert_array_equal(seeded.images, generated.images)
    np.testing.assert_array_equal(seeded.images, handed.images)


def test_without_a_seed_one_is_drawn_and_paints_the_same_again(emoji):
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    first = emoji("a fish", **settings)
    np.testing.assert_array_equal(first.images, emoji("a fish", seed=first.seed, **settings).images)
    assert emoji("a fish", **settings).seed != first.seed


def test_previews_and_cancelling(emoji):
    run = emoji.start("a fish", seed=0, num_inference_steps=4)
    previews = []
    for step in run:
        previews.append(run.preview()[0])
        if step.index == 1:
            break
    assert run.total == 4
    assert [image.size for image in previews] == [(64, 64)] * 2
    assert previews[0].tobytes() != previews[1].tobytes()
    assert run.finish().images[0].tobytes() == emoji("a fish", seed=0, num_inference_steps=4).images[0].tobytes()


def test_threads_share_a_pipeline(emoji):
    prompts = ["a red apple", "a cat face", "a rocket", "a fish"]
    alone = [emoji(prompt, seed=1, num_inference_steps=4).images[0].tobytes() for prompt in prompts]
    together: dict[str, bytes] = {}

    def paint(prompt):
        together[prompt] = emoji(prompt, seed=1, num_inference_steps=4).images[0].tobytes()

    threads = [threading.Thread(target=paint, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[prompt] for prompt in prompts] == alone


def test_what_was_cut_off_is_reported(emoji):
    result = emoji(["a cat", "cat " * 100], seed=0, num_inference_steps=1, output_type="latent")
    assert result.truncated[0] == ""
    assert result.truncated[1].split() == ["cat"] * 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": []}, r"prompt: got \[\], expected a string or a list of at least one"),
        ({"prompt": "x", "height": 100}, "height: got 100, expected a multiple of 8"),
        ({"prompt": "x", "width": -8}, "width: got -8, expected a multiple of 8"),
        (
            {"prompt": "x", "num_inference_steps": 0},
            "num_inference_steps: got 0, expected a whole number of at least 1",
        ),
        ({"prompt": "x", "guidance_scale": float("nan")}, "guidance_scale: got nan, expected a number of at least 0"),
        ({"prompt": "x", "guidance_rescale": 2.0}, "guidance_rescale: got 2.0, expected .* at most 1"),
        ({"prompt": "x", "negative_prompt": ["a", "b"]}, "negative_prompt: got 2 entries, expected a string or 1"),
        ({"prompt": "x", "seed": [1, 2]}, "seed: got 2 seeds, expected one or 1"),
        ({"prompt": "x", "seed": 1, "generator": TorchCpuGenerator(1)}, "seed and generator: got both"),
        ({"prompt": "x", "generator": [TorchCpuGenerator(1)] * 2}, "generator: got 2, expected one or 1"),
        (
            {"prompt": "x", "latents": np.zeros((1, 4, 4, 4), np.float32)},
            r"latents: got shape \(1, 4, 4, 4\), expected",
        ),
        ({"prompt": "x", "output_type": "jpeg"}, "output_type: got 'jpeg', expected one of pil, np, latent"),
        ({"prompt": "x", "scheduler": "Magic"}, "MagicScheduler' is unknown, expected one of"),
        ({"prompt": "x", "scheduler": "EulerDiscrete", "eta": 0.5}, "EulerDiscreteScheduler has no eta"),
        (
            {"prompt": "x", "scheduler": "RePaint"},
            "RePaintScheduler, expected one whose step takes model_output, timestep and sample",
        ),
        ({"prompt": "x", "scheduler": "ScoreSdeVe"}, "it samples for another kind of pipeline"),
        ({"prompt": "x", "timesteps": [3, 1], "sigmas": [2.0, 1.0]}, "timesteps and sigmas: got both"),
        ({"prompt": "x", "strength": 0.5}, "strength: no such argument, expected one of prompt, negative_prompt"),
    ],
)
def test_wrong_arguments_are_named(emoji, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        emoji(**arguments)
    assert isinstance(caught.value, InputError) or "Magic" in message
