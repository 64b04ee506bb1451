"""Chains against diffusers: a Kandinsky prior and its decoder, and Stable Diffusion XL with its refiner."""

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from system_pair import TOLERANCE, open_theirs
from tiny_kandinsky import DDIM, make_decoder, make_prior, make_text_decoder

from diffoundry.exporter.reference.calls import call_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import CancelledError, InputError, UnknownArgumentError
from diffoundry.runtime.pipelines.chain import chain


@pytest.fixture(scope="module")
def kandinsky(system_checkpoint, exported):
    """Folders and bundles of a prior and a decoder."""
    name = "KandinskyV22Pipeline"
    make = lambda folder: make_decoder(folder, name, diffusers.DDIMScheduler(**DDIM))  # noqa: E731
    folders = system_checkpoint("kandinsky-prior", make_prior), system_checkpoint(name, make)
    return folders, [exported(folder, target="onnxruntime,openvino") for folder in folders]


@pytest.fixture(scope="module")
def combined(kandinsky):
    """diffusers' combined pipeline."""
    (prior, decoder), _ = kandinsky
    parts = {f"prior_{name}": part for name, part in open_theirs(prior, "KandinskyV22PriorPipeline").components.items()}
    pipeline = diffusers.KandinskyV22CombinedPipeline(
        **parts, **open_theirs(decoder, "KandinskyV22Pipeline").components
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def follow(pipeline, prompt, **arguments):
    """Return diffusers' latents after every step of every scheduler, and its images."""
    latents = []
    keep = lambda _index, _timestep, values: latents.append(values.numpy().copy())  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    output = call_pipeline(pipeline, prompt, keep, watch=True, generator=generator, output_type="np", **arguments)
    return latents, np.asarray(output.images)


def compare(run, latents, images):
    for step, expected in zip(run, latents, strict=True):
        assert np.abs(step.latents - expected).max() < TOLERANCE * np.sqrt(np.mean(expected**2)), step
    ours = run.finish().images
    assert run.total == len(latents)
    assert -10 * np.log10(np.mean((ours - images) ** 2) + 1e-12) > 60


CASES = {
    "defaults": {"prompt": "a red apple"},
    "settings of both": {
        "prompt": ["a red apple", "a cat"], "negative_prompt": ["blue", "a dog"], "num_images_per_prompt": 2,
        "prior_guidance_scale": 2.0, "guidance_scale": 3.0,
    },
}  # fmt: skip


def test_a_prior_and_its_decoder_are_the_combined_pipeline(kandinsky, combined):
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in kandinsky[1]))
    for case in CASES.values():
        settings = {"height": 12, "width": 16, "num_inference_steps": 3, "prior_num_inference_steps": 2, **case}
        prompt = settings.pop("prompt")
        latents, images = follow(combined, prompt, **settings)
        run = ours.start(prompt, seed=0, output_type="np", **settings)
        assert run.count == len(images)
        compare(run, latents, images)


TEXT_CASES = {
    "defaults": {"prompt": "a red apple"},
    "several images": {"prompt": "a red apple", "negative_prompt": "blue", "num_images_per_prompt": 2},
    "several prompts": {"prompt": ["a red apple", "a cat"], "prior_guidance_scale": 2.0, "guidance_scale": 3.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_decoder_that_takes_the_prompt_is_the_combined_pipeline(system_checkpoint, exported, target):
    """Kandinsky 2.1."""
    prior = system_checkpoint("kandinsky-2-1-prior", lambda folder: make_prior(folder, "KandinskyPriorPipeline"))
    scheduler = diffusers.DDIMScheduler(**DDIM)
    decoder = system_checkpoint(
        "KandinskyPipeline", lambda folder: make_text_decoder(folder, "KandinskyPipeline", scheduler)
    )
    parts = {f"prior_{name}": part for name, part in open_theirs(prior, "KandinskyPriorPipeline").components.items()}
    theirs = diffusers.KandinskyCombinedPipeline(**parts, **open_theirs(decoder, "KandinskyPipeline").components)
    theirs.set_progress_bar_config(disable=True)
    bundles = [exported(folder, target="onnxruntime,openvino") for folder in (prior, decoder)]
    ours = chain(*(load(bundle, target=target) for bundle in bundles))
    for case in TEXT_CASES.values():
        settings = {"height": 12, "width": 16, "num_inference_steps": 3, "prior_num_inference_steps": 2, **case}
        prompt = settings.pop("prompt")
        latents, images = follow(theirs, prompt, **settings)
        run = ours.start(prompt, seed=0, output_type="np", **settings)
        assert run.count == len(images)
        compare(run, latents, images)


@pytest.mark.slow
def test_a_base_model_and_its_refiner(tiny_sd_checkpoint, exported):
    folders = tiny_sd_checkpoint("xl"), tiny_sd_checkpoint("xl-refiner")
    ours = chain(*(load(exported(folder)) for folder in folders))
    base = open_theirs(folders[0], "StableDiffusionXLPipeline")
    refiner = open_theirs(folders[1], "StableDiffusionXLImg2ImgPipeline")
    settings = {"num_inference_steps": 5, "negative_prompt": "blue"}
    generator = torch.Generator().manual_seed(0)
    latents = base(
        "a red apple", denoising_end=0.6, output_type="latent", generator=generator, height=64, width=96, **settings
    ).images
    expected = refiner(
        "a red apple", image=latents, denoising_start=0.6, output_type="np", generator=generator, **settings
    ).images
    run = ours.start("a red apple", seed=0, denoising_end=0.6, output_type="np", height=64, width=96, **settings)
    images = run.finish().images
    assert -10 * np.log10(np.mean((images - expected) ** 2) + 1e-12) > 60
    assert (run.total, run.arguments["height"], run.arguments["width"]) == (5, 64, 96)


ERRORS = {
    "an unknown argument": ({"steps": 3}, UnknownArgumentError, "steps"),
    "embeddings": (
        {"image_embeds": np.zeros((1, 32), np.float32)},
        InputError,
        r"image_embeds: got one, but .*KandinskyV22PriorPipeline\) makes it for .*KandinskyV22Pipeline\); leave it out",
    ),
    "of the decoder": ({"height": 14}, InputError, "height: got 14, expected a multiple of 4"),
    "of the prior": ({"prior_num_inference_steps": 1}, InputError, "num_inference_steps"),
    "no prompt": ({"prompt": None}, InputError, "prompt: got none"),
}


def test_arguments_of_both_are_checked_before_the_first_step(kandinsky):
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in kandinsky[1]))
    for arguments, kind, words in ERRORS.values():
        with pytest.raises(kind, match=words):
            ours.start(**{"prompt": "a cat", "height": 12, "width": 16, **arguments})
    run = ours.start("a cat", height=12, width=16, num_inference_steps=2, prior_num_inference_steps=2, seed=0)
    next(iter(run))
    run.cancel()
    with pytest.raises(CancelledError, match="cancelled after 1 of 4 steps"):
        run.finish()


def test_a_prior_has_no_seed_of_its_own(kandinsky):
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in kandinsky[1]))
    for name in ("prior_seed", "prior_generator", "prior_output_type"):
        with pytest.raises(UnknownArgumentError, match=f"{name}: no such argument"):
            ours("a cat", **{name: "np"})


def test_a_callback_interrupts_the_last_pipeline(kandinsky):
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in kandinsky[1]))
    seen = []

    def interrupt(pipe, index, timestep, tensors):
        seen.append(index)
        pipe._interrupt = True
        return {}

    settings = {"height": 12, "width": 16, "num_inference_steps": 4, "prior_num_inference_steps": 2, "seed": 0}
    assert ours("a cat", callback_on_step_end=interrupt, **settings).images
    assert seen == [0]
    run = ours.start("a cat", **settings)
    for _ in run:
        ours.first._interrupt = True
    with pytest.raises(CancelledError, match="cancelled after 1 of 6 steps"):
        run.finish()


def test_pipelines_that_do_not_fit_are_refused(kandinsky, tiny_sd_checkpoint, exported):
    prior, decoder = (load(bundle, target="onnxruntime") for bundle in kandinsky[1])
    other = load(exported(tiny_sd_checkpoint("xl")))
    with pytest.raises(InputError, match=r"chain: .* gives image_embeds, but .* takes none"):
        chain(prior, other)
    with pytest.raises(InputError, match=r"chain: .* gives image, but .*KandinskyV22Pipeline\) takes none"):
        chain(other, decoder)
    with pytest.raises(InputError, match=r"chain: .* gives image_embeds, but .* takes none"):
        chain(prior, prior)
    with pytest.raises(InputError, match="chain: got str, expected pipelines; load each bundle first"):
        chain("prior.bundle", decoder)
    with pytest.raises(InputError, match="chain: got 1 pipelines, expected two"):
        chain(prior)


def test_generate_chains_bundles(kandinsky, tmp_path):
    prior, decoder = kandinsky[1]
    output = tmp_path / "image.png"
    arguments = ["--steps", "2", "--prior-steps", "2", "--height", "12", "--width", "16", "--seed", "0"]
    result = CliRunner().invoke(generate, [f"{prior}+{decoder}", "a red apple", *arguments, "-o", str(output)])
    assert result.exit_code == 0, result.output
    ours = chain(*(load(bundle) for bundle in (prior, decoder)))
    settings = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "height": 12, "width": 16}
    expected = ours("a red apple", seed=0, **settings).images[0]
    with Image.open(output) as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert f"{prior.name}+{decoder.name}" in str(image.text)
    alone = CliRunner().invoke(generate, [str(prior), "a red apple"])
    assert alone.exit_code != 0
    assert (
        f"makes embeddings and no image; chain it with its decoder: 'diffoundry generate {prior.name}+DECODER'"
        in str(alone.exception)
    )


@pytest.mark.slow
def test_generate_takes_a_hint(kandinsky, system_checkpoint, exported, tmp_path):
    """Kandinsky 2.2 with ControlNet; the engine's own --hint is another option."""
    name = "KandinskyV22ControlnetPipeline"
    make = lambda folder: make_decoder(folder, name, diffusers.DDIMScheduler(**DDIM))  # noqa: E731
    bundles = [kandinsky[1][0], exported(system_checkpoint(name, make), target="onnxruntime,openvino")]
    hint, output = tmp_path / "depth.png", tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)).save(hint)
    arguments = ["a cat", "--steps", "2", "--prior-steps", "2", "--height", "64", "--width", "128", "--seed", "0"]
    both = "+".join(map(str, bundles))
    given = [both, *arguments, "--hint-image", str(hint), "--hint", "latency", "--negative", "blue", "-o", str(output)]
    result = CliRunner().invoke(generate, given)
    assert result.exit_code == 0, result.output
    settings = {"num_inference_steps": 2, "prior_num_inference_steps": 2, "height": 64, "width": 128}
    ours = chain(*(load(bundle) for bundle in bundles))
    with Image.open(hint) as image:
        expected = ours("a cat", seed=0, hint=image, negative_prompt="blue", **settings).images[0]
    with Image.open(output) as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected))
    missing = CliRunner().invoke(generate, [both, *arguments, "-o", str(output)])
    assert "--hint-image: got none, expected one, such as a depth map" in str(missing.exception)
    unknown = CliRunner().invoke(generate, [both, *arguments, "--decoder-steps", "3", "-o", str(output)])
    assert "--decoder-steps: no such argument of this pipeline" in str(unknown.exception)


def test_names_of_arguments_are_those_of_a_call(kandinsky, tiny_sd_checkpoint, exported):
    """A constant of a class of arguments, such as a task's label, is no argument."""
    base = load(exported(tiny_sd_checkpoint("xl")))
    for pipeline in (base, *(load(bundle, target="onnxruntime") for bundle in kandinsky[1])):
        for name in ("label", "from_image", "unconditional"):
            assert name not in pipeline.argument_names
    ours = chain(*(load(bundle, target="onnxruntime") for bundle in kandinsky[1]))
    with pytest.raises(UnknownArgumentError, match="label"):
        ours.start("a cat", label=3)
