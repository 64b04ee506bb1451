"""DeepFloyd IF's six pipelines against diffusers, after every step."""

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from if_checkpoints import FIRST, IF_CHECKPOINTS, IF_IMAGE_CHECKPOINTS, SECOND, WIDTH
from PIL.Image import fromarray
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from upscaler_checkpoint import make_upscaler

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.chain import chain

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(system_checkpoint, exported):
    """The bundle of a stage."""
    return lambda name: exported(system_checkpoint(name, IF_CHECKPOINTS[name]), target="onnxruntime,openvino")


@pytest.fixture(scope="module")
def reference(system_checkpoint):
    """diffusers' pipeline of a stage, with its safety checker; each is made once."""
    made = {}

    def find(name):
        if name not in made:
            made[name] = reference_pipeline(open_checkpoint(str(system_checkpoint(name, IF_CHECKPOINTS[name]))))
        return made[name]

    return find


@pytest.fixture(scope="module")
def theirs(reference):
    """diffusers' pipeline of a class, without a safety checker."""

    def find(name):
        parts = {**reference(stage(name)).components, "safety_checker": None, "feature_extractor": None}
        made = getattr(diffusers, name)(**parts, requires_safety_checker=False)
        made.set_progress_bar_config(disable=True)
        return made

    return find


def stage(name):
    return SECOND if "Super" in name else FIRST


def picture(width, height, seed=0):
    return fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MASK = fromarray(np.pad(np.full((4, 6), 255, np.uint8), ((3, 5), (2, 8))))
MASK_LARGE = MASK.resize((24, 20))
TWO = ["a red apple", "A Cat "]

CASES = {
    "IFPipeline": [
        {"prompt": "a red apple", "height": 6, "width": 10},
        {"prompt": TWO, "num_images_per_prompt": 2, "negative_prompt": ["Blue ", "a dog"], "clean_caption": False},
        {"prompt": TWO, "guidance_scale": 1.0, "timesteps": [900, 501, 500, 20]},
    ],
    "IFImg2ImgPipeline": [
        {"prompt": "a cat", "image": picture(20, 12), "strength": 0.6},
        {"prompt": TWO, "image": [picture(8, 13), picture(8, 13, 1)], "num_images_per_prompt": 2},
        {"prompt": "a cat", "image": np.tanh(numbers(1, 6, 10, 3)), "guidance_scale": 1.0, "strength": 1.0},
    ],
    "IFInpaintingPipeline": [
        {"prompt": "a cat", "image": picture(16, 12), "mask_image": MASK},
        {
            "prompt": TWO, "image": [picture(16, 12), picture(16, 12, 1)], "mask_image": MASK,
            "num_images_per_prompt": 2, "negative_prompt": ["blue", "red"], "strength": 0.8,
        },
        {
            "prompt": "a cat", "image": picture(16, 16), "mask_image": [np.eye(8, dtype=np.float32)],
            "guidance_scale": 1.0,
        },
    ],
    "IFSuperResolutionPipeline": [
        {"prompt": "a cat", "image": picture(8, 6)},
        {
            "prompt": TWO, "image": [picture(5, 4), picture(5, 4, 1)], "height": 12, "width": 20, "noise_level": 10,
            "num_images_per_prompt": 2, "negative_prompt": ["blue", "red"],
        },
        {"prompt": "a cat", "image": np.tanh(numbers(1, 8, 8, 3)), "guidance_scale": 1.0, "noise_level": 999},
    ],
    "IFImg2ImgSuperResolutionPipeline": [
        {"prompt": "a cat", "image": picture(8, 6), "original_image": picture(24, 20)},
        {
            "prompt": TWO, "image": [picture(8, 8), picture(8, 8, 1)], "noise_level": 100, "strength": 1.0,
            "original_image": [picture(30, 30), picture(30, 30, 1)], "num_images_per_prompt": 2,
        },
        {
            "prompt": "a cat", "image": picture(8, 6), "original_image": np.tanh(numbers(1, 12, 16, 3)),
            "guidance_scale": 1.0,
        },
    ],
    "IFInpaintingSuperResolutionPipeline": [
        {"prompt": "a cat", "image": picture(8, 6), "original_image": picture(16, 12), "mask_image": MASK},
        {
            "prompt": TWO, "image": [picture(8, 8), picture(8, 8, 1)], "noise_level": 50, "mask_image": [MASK, MASK],
            "original_image": [picture(32, 24), picture(32, 24, 1)], "num_images_per_prompt": 2, "strength": 1.0,
        },
        {
            "prompt": "a cat", "image": picture(8, 6), "original_image": picture(16, 12), "mask_image": MASK,
            "guidance_scale": 1.0,
        },
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_diffusers(bundle, theirs, name):
    expected = theirs(name)
    _, several, _ = CASES[name]
    for target, cases in {"onnxruntime": CASES[name], "openvino": [several]}.items():
        ours = load(bundle(stage(name)), target=target, safety_checker=False)
        for arguments in cases:
            steps = {} if "timesteps" in arguments else {"num_inference_steps": 3}
            compare_system(ours, expected, watch="Inpainting" not in name, **steps, **arguments)


def test_embeddings_of_a_prompt(bundle, theirs, reference):
    """Those of a text encoder that another bundle has; and arguments have diffusers' defaults."""
    with torch.no_grad():
        rows = reference(FIRST).encode_prompt(TWO, negative_prompt=["blue", "red"], clean_caption=False)
    names = ("prompt_embeds", "negative_prompt_embeds")
    arrays = {name: row.numpy() for name, row in zip(names, rows, strict=True)}
    tensors = dict(zip(names, rows, strict=True))
    ours = load(bundle(FIRST), target="onnxruntime", safety_checker=False)
    compare_system(
        ours, theirs(FIRST), ours_only=arrays, theirs_only=tensors, num_inference_steps=3, num_images_per_prompt=2
    )


def test_defaults_are_diffusers(bundle):
    for name in CASES:
        ours = load(bundle(stage(name)))
        given = [one for one in ("image", "original_image", "mask_image") if one in CASES[name][0]]
        kind = ours.inputs_class(given)
        for argument, parameter in inspect.signature(getattr(diffusers, name).__call__).parameters.items():
            own = kind.__dataclass_fields__.get(argument)
            if own is not None and argument not in ("clean_caption", "image"):
                assert own.default == parameter.default, (name, argument)


@pytest.mark.parametrize("name", IF_IMAGE_CHECKPOINTS)
def test_a_measurement_does_what_the_class_of_the_checkpoint_does(bundle, theirs, monkeypatch, name):
    monkeypatch.setattr(Bundle, "pipeline_class", name)
    ours = load(bundle(stage(name)), target="onnxruntime", safety_checker=False)
    arguments = ours.measure_arguments(3, 3.0, *ours.default_size)
    assert arguments.keys() >= {"image", "strength"}
    compare_system(ours, theirs(name), prompt="a cat", watch="Inpainting" not in name, **arguments)


def test_other_schedulers(bundle, theirs):
    for name, ending in (("IFPipeline", "DPMSolverMultistep"), ("IFSuperResolutionPipeline", "DDPM")):
        options = {"variance_type": "fixed_small"} if ending == "DDPM" else {}
        pipeline = theirs(name)
        made = getattr(diffusers, f"{ending}Scheduler").from_config(pipeline.scheduler.config, **options)
        pipeline.scheduler = made
        ours = load(bundle(stage(name)), target="onnxruntime", safety_checker=False)
        ours.scheduler_config = dict(made.config)
        image = {"image": picture(8, 8)} if "Super" in name else {}
        compare_system(ours, pipeline, prompt="a cat", num_inference_steps=4, **image)


def test_the_safety_checker_is_diffusers(bundle, reference):
    """Of images with different verdicts."""
    prompts = ["a red apple", "a cat", "a dog", "blue", "a tree", "the sun"]
    expected = reference(FIRST)(
        prompts, num_inference_steps=2, generator=torch.Generator().manual_seed(2), output_type="np"
    )
    ours = load(bundle(FIRST), target="onnxruntime")
    result = ours(prompts, num_inference_steps=2, seed=2, output_type="np")
    assert result.nsfw_content_detected == expected.nsfw_detected
    assert result.watermark_detected == expected.watermark_detected
    flagged = np.array(expected.nsfw_detected) | np.array(expected.watermark_detected)
    assert 0 < sum(expected.nsfw_detected) < 6
    assert 0 < sum(expected.watermark_detected) < 6
    assert not flagged.all()
    np.testing.assert_array_equal(result.images.any(axis=(1, 2, 3)), ~flagged)
    np.testing.assert_allclose(result.images, expected.images, atol=1e-3)


def test_generate_tells_both_verdicts(bundle, tmp_path):
    """Seed 2 gives images with either verdict alone."""
    prompts = ["a red apple", "a cat", "a dog", "blue", "a tree", "the sun"]
    result = load(bundle(FIRST))(prompts, num_inference_steps=2, seed=2)
    options = [bundle(FIRST), *prompts, "--steps=2", "--seed=2", f"-o{tmp_path}/out.png", "--json"]
    told = CliRunner().invoke(generate, list(map(str, options)))
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert report["nsfw_content_detected"] == result.nsfw_content_detected
    assert report["watermark_detected"] == result.watermark_detected
    verdicts = zip(result.nsfw_content_detected, result.watermark_detected, strict=True)
    marked = sum(watermark and not nsfw for nsfw, watermark in verdicts)
    assert told.stderr.count("the safety checker flagged this image, so it is black") == sum(
        result.nsfw_content_detected
    )
    assert told.stderr.count("the safety checker found a watermark in this image, so it is black") == marked > 0


def test_both_stages_are_a_chain(bundle, theirs):
    """As diffusers' documentation runs them: pixels go on unrounded, and one generator draws for both."""
    generator = torch.Generator().manual_seed(0)
    small = theirs(FIRST)("a red apple", num_inference_steps=3, generator=generator, output_type="pt").images
    large = theirs(SECOND)(
        "a red apple", image=small, num_inference_steps=3, generator=generator, output_type="np", noise_level=100,
        guidance_scale=7.0,
    ).images  # fmt: skip
    ours = chain(*(load(bundle(name), target="onnxruntime", safety_checker=False) for name in (FIRST, SECOND)))
    images = ours(
        "a red apple", num_inference_steps=3, seed=0, output_type="np", noise_level=100, guidance_scale=7.0
    ).images
    assert images.shape == large.shape
    np.testing.assert_allclose(images, large, atol=1e-3)


def test_a_chain_has_the_verdicts_of_its_last_stage(bundle):
    first, last = (load(bundle(name), target="onnxruntime") for name in (FIRST, SECOND))
    settings = {"prompt": ["a red apple"] * 6, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(0)
    small = first(**settings, output_type="latent", generator=generator).images
    expected = last(**settings, image=small, generator=generator)
    result = chain(first, last)(**settings, seed=0)
    assert result.watermark_detected == expected.watermark_detected
    assert result.nsfw_content_detected == expected.nsfw_content_detected
    assert 0 < sum(expected.watermark_detected) < 6
    assert result.seed == 0
    assert all(np.array_equal(one, other) for one, other in zip(result.images, expected.images, strict=True))


STARTS = {
    "IFImg2Img{}Pipeline": {"prompt": "a red apple", "image": picture(24, 20), "strength": 0.6},
    "IFInpainting{}Pipeline": {"prompt": TWO, "image": [picture(24, 20), picture(24, 20, 1)], "mask_image": MASK_LARGE},
}


def test_a_chain_starts_from_an_image(bundle, theirs):
    """Both stages do, as in diffusers' documentation of the pipelines."""
    ours = chain(*(load(bundle(name), target="onnxruntime", safety_checker=False) for name in (FIRST, SECOND)))
    common = {"num_inference_steps": 5, "guidance_scale": 3.0}
    for name, arguments in STARTS.items():
        both = {**common, **arguments, "generator": torch.Generator().manual_seed(0)}
        small = theirs(name.format(""))(**both, output_type="pt").images
        both["original_image"] = both.pop("image")
        large = theirs(name.format("SuperResolution"))(image=small, **both, noise_level=100, output_type="np").images
        run = ours.start(**arguments, **common, noise_level=100, seed=0, output_type="np")
        images = run.finish().images
        assert images.shape == large.shape
        np.testing.assert_allclose(images, large, atol=1e-3)
        assert run.arguments["image"] is arguments["image"]
    images = {"image": picture(40, 20), "original_image": picture(30, 30)}
    for names in (images, reversed(images)):  # the second stage has an image of its own
        given = {name: images[name] for name in names}
        made = ours("a cat", **given, num_inference_steps=2, strength=0.5, seed=0, output_type="np").images
        assert made.shape == (1, 16, 16, 3)
    with pytest.raises(InputError, match="strength: got 0.5 without an image that it acts on; pass image too"):
        ours.start("a cat", strength=0.5)


def test_three_stages_are_a_chain(bundle, system_checkpoint, exported, theirs):
    """The third is an x4 upscaler."""
    folder = system_checkpoint("upscaler", make_upscaler)
    upscaler = open_theirs(folder, "StableDiffusionUpscalePipeline")
    generator = torch.Generator().manual_seed(0)
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": generator}
    image = theirs(FIRST)("a red apple", output_type="pt", **settings).images
    image = theirs(SECOND)("a red apple", image=image, noise_level=100, output_type="pt", **settings).images
    expected = upscaler("a red apple", image=image, noise_level=100, output_type="np", **settings).images
    parts = [load(bundle(name), target="onnxruntime", safety_checker=False) for name in (FIRST, SECOND)]
    ours = chain(*parts, load(exported(folder, target="onnxruntime,openvino"), target="onnxruntime"))
    run = ours.start(
        "a red apple", num_inference_steps=2, guidance_scale=3.0, noise_level=100, seed=0, output_type="np"
    )
    assert [step.stage for step in run] == ["denoising", "denoising", "first", "first", "last", "last"]
    images = run.finish().images
    assert images.shape == expected.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(images, expected, atol=1e-3)
    few = {"num_inference_steps": 4, "strength": 0.5, "seed": 0}
    begun = ours.start("a cat", image=picture(40, 20), **few, output_type="np")
    assert [step.stage for step in begun] == ["denoising"] * 2 + ["first"] * 2 + ["last"] * 4
    assert begun.finish().images.shape == (1, 64, 128, 3)


def test_an_image_of_a_chain_repeats_it(bundle, system_checkpoint, exported, tmp_path):
    """The stages have other sizes, schedulers and defaults, which the settings in the image do not mix."""
    upscaler = exported(system_checkpoint("upscaler", make_upscaler), target="onnxruntime,openvino")
    small, large = f"{bundle(FIRST)}+{bundle(SECOND)}", f"{bundle(FIRST)}+{bundle(SECOND)}+{upscaler}"
    picture(24, 20).save(tmp_path / "start.png")
    engine = ["--target", "onnxruntime", "--no-safety-checker"]
    for number, (name, start) in enumerate(
        [(small, []), (small, ["--image", str(tmp_path / "start.png")]), (large, [])]
    ):
        one, again = str(tmp_path / f"{number}.png"), str(tmp_path / f"{number}-again.png")
        settings = ["a red apple", "--steps", "3", "--seed", "0", "-o", one]
        generate.main([name, *settings, *start, *engine], standalone_mode=False)
        generate.main([name, "--like", one, "-o", again, *start, *engine], standalone_mode=False)
        assert np.array_equal(open_image(one), open_image(again))


FIRST_ERRORS = {
    "no prompt": ({"prompt": None}, "prompt and prompt_embeds: got neither"),
    "a mask alone": ({"mask_image": MASK}, "image: got none, expected the image to start from"),
    "an odd size": ({"height": 7}, "height: got 7, expected a multiple of 2"),
    "a strength alone": ({"strength": 0.5}, "strength: got 0.5 without an image that it acts on; pass image too"),
    "latents and an image": (
        {"image": picture(8, 8), "latents": np.zeros((1, 3, 8, 8), np.float32)},
        "image and latents: got both, expected at most one of them",
    ),
    "another size": (
        {"image": picture(16, 12), "height": 20}, "height: got 20, expected 8, the size of image; leave it out",
    ),
    "a mask of another size": (
        {"image": picture(16, 12), "mask_image": np.zeros((5, 6), np.float32)},
        "mask_image: got 6 x 5 pixels, expected 8 x 8, the size of the image",
    ),
    "an empty list of masks": ({"image": picture(16, 12), "mask_image": []}, "mask_image: got an empty list"),
    "three images": (
        {"prompt": TWO, "image": [picture(8, 8)] * 3}, "image: got 3 for 2 prompts, expected one, or one for each",
    ),
    "whole numbers": (
        {"image": np.full((1, 3, 8, 8), 200, np.uint8)}, "image: got an array of uint8, expected floats in -1..1",
    ),
    "no number": ({"image": np.full((1, 3, 8, 8), np.nan, np.float32)}, "image: got NaN or infinity, expected finite"),
    "no step": ({"image": picture(8, 8), "strength": 0.1}, "strength: got 0.1 of 2 steps, which leaves none"),
    "eta": ({"eta": 0.5}, "DDPMScheduler has no eta"),
    "a word": ({"clean_caption": "yes"}, "clean_caption: got 'yes', expected True or False"),
    "other tokens": (
        {"negative_prompt_embeds": numbers(1, 5, WIDTH)}, "encoder_hidden_states: got shapes .* expected the same",
    ),
    "latents": ({"latents": numbers(1, 3, 4, 4)}, r"latents: got shape \(1, 3, 4, 4\), expected \(1, 3, 8, 8\)"),
}  # fmt: skip

SECOND_ERRORS = {
    "no image": ({}, "image: got none, expected the small image to enlarge"),
    "a strength alone": (
        {"image": picture(8, 8), "strength": 0.5},
        "strength: got 0.5 without an image that it acts on; pass original_image too",
    ),
    "a mask alone": (
        {"image": picture(8, 8), "mask_image": MASK},
        "original_image: got none, expected the image that the small one was made of",
    ),
    "no mask": (
        {"image": picture(8, 8), "original_image": picture(8, 8), "mask_image": np.zeros((2, 2), np.float32)},
        "mask_image: got 2 x 2 pixels, expected 16 x 16",
    ),
    "a level": ({"image": picture(8, 8), "noise_level": 1000}, "noise_level: got 1000, expected .* from 0 to 999"),
    "a negative level": ({"image": picture(8, 8), "noise_level": -1}, "noise_level: got -1"),
    "a word": ({"image": "cat.png"}, "image: got str, expected"),
}


@pytest.mark.parametrize(("name", "errors"), [(FIRST, FIRST_ERRORS), (SECOND, SECOND_ERRORS)])
def test_wrong_arguments_are_refused(bundle, name, errors):
    ours = load(bundle(name), target="onnxruntime")
    for arguments, words in errors.values():
        with pytest.raises(InputError, match=words):
            ours(**{"prompt": "a cat", "num_inference_steps": 2, **arguments})


def test_a_bundle_without_a_text_encoder_takes_embeddings(system_checkpoint, exported, theirs):
    whole = system_checkpoint(SECOND, IF_CHECKPOINTS[SECOND])

    def make(folder):
        shutil.copytree(whole, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("text_encoder"))
        index = json.loads((whole / "model_index.json").read_text())
        parts = {part: [None, None] for part in ("text_encoder", "safety_checker", "feature_extractor")}
        (folder / "model_index.json").write_text(json.dumps({**index, **parts}))

    folder = system_checkpoint(f"{SECOND}-embeddings", make)
    assert open_checkpoint(str(folder)).notices() == []  # on its tokenizer, which nothing needs
    ours = load(exported(folder, target="onnxruntime"))
    assert set(ours.session.bundle.components) == {"unet"}
    assert not ours.session.bundle.has("tokenizer/tokenizer.json")
    arrays = {"prompt_embeds": numbers(1, 5, WIDTH), "negative_prompt_embeds": numbers(1, 5, WIDTH, seed=1)}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    settings = {"image": picture(8, 8), "num_inference_steps": 2}
    compare_system(ours, theirs(SECOND), ours_only=arrays, theirs_only=tensors, **settings)
    for arguments in ({"prompt": "a cat"}, {"prompt_embeds": arrays["prompt_embeds"]}):
        with pytest.raises(
            InputError, match="prompt_embeds: got none, expected hidden states of T5, since this bundle"
        ):
            ours(**arguments, **settings)


def test_options_of_generate(bundle, tmp_path):
    images = {"image": picture(8, 8), "original_image": picture(16, 16, 1), "mask_image": MASK.resize((16, 16))}
    files = {name: tmp_path / f"{name}.png" for name in images}
    for name, path in files.items():
        images[name].save(path)
    folder, output = bundle(SECOND), tmp_path / "large.png"
    options = [
        f"--image={files['image']}",
        f"--original-image={files['original_image']}",
        f"--mask={files['mask_image']}",
    ]
    settings = ["--steps=2", "--strength=1", "--noise-level=5", "--no-clean-caption", "--seed=0", "--no-safety-checker"]
    result = CliRunner().invoke(generate, [str(folder), "A Cat", *options, *settings, f"-o{output}"])
    assert result.exit_code == 0, result.output
    ours = load(folder, safety_checker=False)
    (expected,) = ours(
        "A Cat", num_inference_steps=2, strength=1.0, noise_level=5, clean_caption=False, seed=0, **images
    ).images
    saved = open_image(output)
    np.testing.assert_array_equal(np.asarray(saved), np.asarray(expected))
    assert "clean_caption" in saved.text["diffoundry"]
    chained = [f"{bundle(FIRST)}+{folder}", "a cat", "--steps=2", "--seed=0", "--no-safety-checker"]
    result = CliRunner().invoke(generate, [*chained, f"-o{tmp_path}/all.png"])
    assert result.exit_code == 0, result.output
    assert open_image(tmp_path / "all.png").size == (16, 16)
    start = [f"--image={files['original_image']}", f"--mask={files['mask_image']}", "--strength=0.5"]
    result = CliRunner().invoke(generate, [*chained, *start, f"-o{tmp_path}/part.png"])
    assert result.exit_code == 0, result.output
    both = chain(*(load(one, safety_checker=False) for one in (bundle(FIRST), folder)))
    given = {"image": images["original_image"], "mask_image": images["mask_image"]}
    (expected,) = both("a cat", num_inference_steps=2, strength=0.5, seed=0, **given).images
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "part.png")), np.asarray(expected))
