"""The pipeline against diffusers' own: latents after every step, the image, and everything that may be asked for."""

import threading

import diffusers
import numpy as np
import pytest
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import TorchCpuGenerator


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
    compare(emoji, emoji_diffusers, "a red apple", **arguments)


def test_batches_of_prompts_with_their_own_negatives_and_seeds(emoji, emoji_diffusers):
    arguments = {"negative_prompt": ["blue", ""], "num_inference_steps": 5}
    compare(emoji, emoji_diffusers, ["a red apple", "a cat face"], seed=[3, 4], **arguments)


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

_FEW = ("DDIM", "DPMSolverMultistep", "EulerAncestralDiscrete", "LCM", "PNDM")
"""Those beside the slow tests: with and without noise, of one stage and of several."""


@pytest.mark.parametrize(
    "name", [name if name in _FEW else pytest.param(name, marks=pytest.mark.slow) for name in _SCHEDULERS]
)
def test_another_scheduler_takes_over_the_config(emoji, emoji_folder, name):
    theirs = diffusers_pipeline(emoji_folder)
    config = {**theirs.scheduler.config, **_SCHEDULERS[name]}
    theirs.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(config)
    ours = load(emoji.session.bundle.root)
    ours.scheduler_config = {**ours.scheduler_config, **_SCHEDULERS[name]}
    # a prompt whose latents do not grow a difference: in float64, KDPM2 makes 1e-6 into 5e-5 on the way to "a rocket",
    # and into 1e-6 on the way to this
    compare(ours, theirs, "a red apple", num_inference_steps=8, ours_only={"scheduler": name})


@pytest.mark.slow_cases("DDPM")
@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM"])
def test_old_scheduler_configs_are_mended_as_diffusers_does(emoji, emoji_diffusers, name):
    scheduler = emoji_diffusers.scheduler.config
    config = {key: value for key, value in scheduler.items() if key not in ("steps_offset", "clip_sample")}
    parts = {**emoji_diffusers.components, "scheduler": getattr(diffusers, f"{name}Scheduler").from_config(config)}
    theirs = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    ours = load(emoji.session.bundle.root)
    ours.scheduler_config = {**config, "_class_name": f"{name}Scheduler"}
    compare(ours, theirs, "a rocket", num_inference_steps=8)


@pytest.mark.parametrize("variant", ["sd1", "sd2"])
def test_other_architectures(exported, tiny_sd_checkpoint, variant):
    folder = tiny_sd_checkpoint(variant)
    arguments = {"num_inference_steps": 5, "height": 72, "width": 64}
    compare(load(exported(folder)), diffusers_pipeline(folder), "anything at all", **arguments)


def test_generator_and_latents_in_place_of_a_seed(emoji):
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    seeded = emoji("a fish", seed=5, **settings)
    assert seeded.seed == 5
    generated = emoji("a fish", generator=TorchCpuGenerator(5), **settings)
    assert generated.seed is None
    handed = emoji("a fish", latents=TorchCpuGenerator(5).randn((1, 4, 8, 8)), **settings)
    np.testing.assert_array_equal(seeded.images, generated.images)
    np.testing.assert_array_equal(seeded.images, handed.images)


def test_without_a_seed_one_is_drawn_and_generates_the_same_again(emoji):
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
    assert [step.index for step in run] == [2, 3]
    assert run.finish().images[0].tobytes() == emoji("a fish", seed=0, num_inference_steps=4).images[0].tobytes()


def test_threads_share_a_pipeline(emoji):
    prompts = ["a red apple", "a cat face", "a rocket", "a fish"]
    alone = [emoji(prompt, seed=1, num_inference_steps=4).images[0].tobytes() for prompt in prompts]
    together: dict[str, bytes] = {}

    def generate(prompt):
        together[prompt] = emoji(prompt, seed=1, num_inference_steps=4).images[0].tobytes()

    threads = [threading.Thread(target=generate, args=(prompt,)) for prompt in prompts]
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
        ({"prompt": "x", "guidance_scale": 1e308}, "guidance_scale: got 1e.308, expected .* and at most 1000000"),
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
        ({"prompt": "x", "scheduler": "Magic"}, r"scheduler: got 'Magic'\. Expected one of ddim, ddpm, deis, dpm2"),
        ({"prompt": "x", "scheduler": "EulerDiscrete", "eta": 0.5}, "EulerDiscreteScheduler has no eta"),
        (
            {"prompt": "x", "scheduler": "RePaint"},
            "RePaintScheduler cannot run in this denoising loop. It needs the loop of RePaintPipeline",
        ),
        (
            {"prompt": "x", "scheduler": "ScoreSdeVe"},
            "ScoreSdeVeScheduler cannot run in this denoising loop. It needs the",
        ),
        ({"prompt": "x", "timesteps": [3, 1], "sigmas": [2.0, 1.0]}, "timesteps and sigmas: got both"),
        (
            {"prompt": "x", "strength": 0.5},
            "strength: text to image has no such argument; pass image for image to image",
        ),
        (
            {"prompt": "x", "negative_promt": "y"},
            r"negative_promt: no such argument\. Did you mean 'negative_prompt'\? Expected one of adapter_condition",
        ),
        ({"prompt": "x", "magic": 0.5}, "magic: no such argument, expected one of adapter_conditioning_factor, ad"),
        ({"prompt": "x", "denoising_end": 1.5}, "denoising_end: got 1.5, expected a number above 0 and below 1"),
        (
            {"prompt": "x", "denoising_end": 1e-6, "num_inference_steps": 3},
            "denoising_end: got 1e-06, which leaves no step",
        ),
    ],
)
def test_wrong_arguments_are_named(emoji, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        emoji(**arguments)
    assert isinstance(caught.value, InputError)


def test_low_memory_generates_the_same_image(emoji, emoji_bundle):
    arguments = {"prompt": "a red apple", "seed": 3, "num_inference_steps": 3, "output_type": "np"}
    frugal = load(emoji_bundle, low_memory=True)
    np.testing.assert_array_equal(frugal(**arguments).images, emoji(**arguments).images)
    assert list(frugal.session._engines) == ["vae_decoder"]
