"""PixArt's pipelines against diffusers, after every step."""

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from diffusers.pipelines.pixart_alpha import pipeline_pixart_sigma as published
from PIL.Image import open as open_image
from system_pair import compare_system, open_theirs
from tiny_pixart import WIDTH, make_pixart

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.pixart_transformer_2d import sine_table
from diffoundry.runtime.pipelines.systems.trained_sizes import closest_size, fit_images

ALPHA, SIGMA = "PixArtAlphaPipeline", "PixArtSigmaPipeline"
EXACT = {"use_resolution_binning": False}


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    return {
        name: system_checkpoint(name, lambda folder, name=name: make_pixart(folder, name)) for name in (ALPHA, SIGMA)
    }


@pytest.fixture(scope="module")
def pipelines(exported, folders):
    """Target to the pipeline of each class, with the engines that tests before have opened.

    The slow tests follow PixArt-Sigma on OpenVINO too.
    """
    alpha, sigma = exported(folders[ALPHA], target="onnxruntime,openvino"), exported(folders[SIGMA])
    return {
        "onnxruntime": {ALPHA: load(alpha, target="onnxruntime"), SIGMA: load(sigma)},
        "openvino": {ALPHA: load(alpha, target="openvino")},
    }


@pytest.fixture
def ours(pipelines):
    return pipelines["onnxruntime"]


@pytest.fixture(scope="module")
def theirs(folders):
    return {name: open_theirs(folder, name) for name, folder in folders.items()}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


TWO = ["a cat", "a red apple on the table"]
LONG = "a dog in the garden of the house under a tree with the sun"
SEVERAL = {"prompt": TWO, "negative_prompt": ["blue", LONG], "num_images_per_prompt": 2}

CASES = {
    "wide": {"prompt": "a red apple", "height": 64, "width": 128, **EXACT},
    "several": {**SEVERAL, "height": 64, "width": 48, "max_sequence_length": 20, **EXACT},
    "unguided, cut off": {
        "prompt": LONG * 20, "guidance_scale": 1.0, "height": 96, "width": 64, **EXACT, "clean_caption": False
    },
    "a caption to clean": {"prompt": "A &amp; (cat) at www.cats.com", "height": 64, "width": 64, **EXACT},
}  # fmt: skip


@pytest.mark.parametrize("name", [ALPHA, SIGMA])
def test_every_step_is_diffusers(pipelines, theirs, name):
    for target, cases in {"onnxruntime": CASES, "openvino": ("wide", "several")}.items():
        for case in cases if name in pipelines[target] else ():
            compare_system(pipelines[target][name], theirs[name], num_inference_steps=3, **CASES[case])


def test_sizes_are_those_of_the_training(ours, theirs):
    """Of a network for 256 pixels: another size is generated, and resized. Latents keep the other."""
    for height, width, output_type in ((200, 120, "np"), (None, None, "np"), (200, 120, "latent")):
        result = compare_system(
            ours[SIGMA], theirs[SIGMA], prompt="a cat", height=height, width=width, num_inference_steps=1,
            output_type=output_type,
        )  # fmt: skip
        assert output_type == "latent" or result.shape == (1, height or 256, width or 256, 3)
    run = ours[SIGMA].start("a cat " * 200, height=200, width=120)
    assert run.truncated[0].startswith("a")
    assert (run.arguments["height"], run.arguments["width"]) == (200, 120)


def test_tables_of_sizes_are_diffusers():
    processor = diffusers.image_processor.PixArtImageProcessor()
    names = {32: "ASPECT_RATIO_256_BIN", 64: "ASPECT_RATIO_512_BIN", 128: "ASPECT_RATIO_1024_BIN"}
    for side, name in {**names, 256: "ASPECT_RATIO_2048_BIN"}.items():
        table = getattr(published, name)
        for width in (333, 1000):
            for height in range(90, 4100, 31):
                expected = processor.classify_height_width_bin(height, width, table)
                assert closest_size(height, width, side) == expected, (height, width, side)
    images = numbers(2, 3, 40, 56)
    for height, width in ((40, 56), (33, 50), (90, 41), (41, 90)):
        expected = processor.resize_and_crop_tensor(torch.from_numpy(images), width, height)
        np.testing.assert_allclose(fit_images(images, height, width), expected, atol=1e-5)


def test_positions_are_diffusers():
    for rows, columns, base, scale in ((5, 9, 16, 1.0), (64, 64, 64, 2.0), (33, 20, 64, 1.5)):
        table = get_2d_sincos_pos_embed(24, (rows, columns), base_size=base, interpolation_scale=scale)
        halves = table.float().reshape(rows, columns, 2, 12).numpy()
        across = sine_table(columns, base, scale, 12)
        down = sine_table(rows, base, scale, 12)
        np.testing.assert_allclose(halves[:, :, 0], np.broadcast_to(across, (rows, columns, 12)), atol=1e-6)
        np.testing.assert_allclose(halves[:, :, 1], np.broadcast_to(down[:, None], (rows, columns, 12)), atol=1e-6)


def test_embeddings_of_a_prompt(ours, theirs):
    """Those that diffusers made; also without a negative prompt, or one in words."""
    made = theirs[ALPHA].encode_prompt(TWO, negative_prompt=["blue", LONG], max_sequence_length=12)
    names = (
        "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"
    )  # fmt: skip
    tensors = dict(zip(names, made, strict=True))
    for kept, words in (
        (names, {}),
        (names[:2], {"guidance_scale": 1.0}),
        (names[:2], {"negative_prompt": ["blue", "a cat"]}),
    ):
        given = {name: tensors[name] for name in kept}
        arrays = {name: tensor.detach().numpy() for name, tensor in given.items()}
        compare_system(
            ours[ALPHA], theirs[ALPHA], ours_only={**arrays, "negative_prompt": None, **words},
            theirs_only={"negative_prompt": None if "negative_prompt_embeds" in given else "", **given, **words},
            height=64, width=64, num_inference_steps=2, num_images_per_prompt=2, **EXACT,
        )  # fmt: skip


SCHEDULERS = {
    "DDIMScheduler": {"num_inference_steps": 3, "eta": 0.5},
    "HeunDiscreteScheduler": {"num_inference_steps": 2},
    "LCMScheduler": {"num_inference_steps": 3, "guidance_scale": 0.0},
    "DDPMScheduler": {"timesteps": [900, 500, 20]},
    "EulerDiscreteScheduler": {"sigmas": [9.0, 3.0, 1.0, 0.0]},
}


def test_other_schedulers_and_plans(ours, theirs, monkeypatch):
    for name, arguments in SCHEDULERS.items():
        monkeypatch.setattr(
            theirs[SIGMA], "scheduler", getattr(diffusers, name).from_config(theirs[SIGMA].scheduler.config)
        )
        compare_system(
            ours[SIGMA], theirs[SIGMA], prompt="a cat", height=64, width=64, **EXACT, **arguments,
            ours_only={"scheduler": name.removesuffix("Scheduler")},
        )  # fmt: skip


def test_the_only_step_of_alpha_ends_with_the_clean_sample(ours, theirs, monkeypatch):
    """As the models distilled to one step are called."""
    monkeypatch.setattr(theirs[ALPHA], "scheduler", diffusers.DDPMScheduler.from_config(theirs[ALPHA].scheduler.config))
    size = {"height": 64, "width": 64, "seed": 0, "timesteps": [400], "guidance_scale": 1.0, **EXACT}
    given = ours[ALPHA]("a cat", scheduler="DDPM", output_type="latent", **size).images
    seed = torch.Generator().manual_seed(size.pop("seed"))
    expected = theirs[ALPHA]("a cat", output_type="latent", generator=seed, **size).images.numpy()
    assert np.abs(given - expected).max() < 1e-4 * np.sqrt(np.square(expected).mean())
    assert np.isfinite(
        ours[ALPHA]("a cat", output_type="latent", num_inference_steps=1, **EXACT, height=64).images
    ).all()


def test_defaults_are_diffusers(ours):
    for name, pipeline in ours.items():
        for argument, parameter in inspect.signature(getattr(diffusers, name).__call__).parameters.items():
            own = pipeline.Inputs.__dataclass_fields__.get(argument)
            if own is not None and argument not in ("negative_prompt", "clean_caption"):  # None says the same
                assert own.default == parameter.default, (name, argument)
    assert (ours[ALPHA].default_size, ours[SIGMA].default_size) == ((1024, 1024), (256, 256))


EMBEDS = numbers(1, 5, WIDTH)
ERRORS = {
    "no prompt": ({"prompt": None}, "prompt and prompt_embeds: got neither"),
    "no mask": (
        {"prompt": None, "prompt_embeds": EMBEDS},
        r"prompt_attention_mask: got none with prompt_embeds, expected one \(1, 5\), 1 for a token and 0 for padding",
    ),
    "a mask alone": (
        {"prompt_attention_mask": np.ones((1, 5))}, "prompt_attention_mask: got one without prompt_embeds",
    ),
    "a short mask": (
        {"negative_prompt_embeds": EMBEDS, "negative_prompt_attention_mask": np.ones((1, 4))},
        r"negative_prompt_attention_mask: got shape \(1, 4\), expected \(1, 5\) of 1 and 0",
    ),
    "a width": (
        {"negative_prompt_embeds": numbers(1, 5, 7), "negative_prompt_attention_mask": np.ones((1, 5))},
        f"negative_prompt_embeds: got 7 numbers a token, expected {WIDTH}",
    ),
    "an odd size": ({"height": 100}, "height: got 100, expected a multiple of 16"),
    "latents": (
        {"latents": numbers(1, 4, 4, 4), "height": 64, "width": 64},
        r"latents: got shape \(1, 4, 4, 4\), expected \(1, 4, 8, 8\)",
    ),
    "two plans": ({"timesteps": [9], "sigmas": [1.0]}, "timesteps and sigmas: got both, expected one of them"),
    "tokens": ({"max_sequence_length": 1}, "max_sequence_length: got 1, expected a whole number of at least 2"),
    "binning": ({"use_resolution_binning": "no"}, "use_resolution_binning: got 'no', expected True or False"),
    "cleaning": ({"clean_caption": 1}, "clean_caption: got 1, expected"),
    "a scale": ({"guidance_scale": -1.0}, "guidance_scale: got -1.0"),
    "a callback": ({"callback": print}, "callback: .*pass callback_on_step_end"),
}  # fmt: skip


def test_wrong_arguments_are_refused(ours, monkeypatch):
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours[ALPHA](**{"prompt": "a cat", "num_inference_steps": 2, **EXACT, **arguments})
    with pytest.raises(InputError, match="use_resolution_binning: got True with a network whose sample_size is 48"):
        closest_size(64, 64, 48)
    network = type(ours[ALPHA].transformer)
    monkeypatch.setattr(network, "token_limit", 120)
    with pytest.raises(InputError, match=r"max_sequence_length: got 20 tokens, expected 120: the engine of 'transf"):
        ours[ALPHA]("a cat", max_sequence_length=20)


def test_a_bundle_without_a_text_encoder_takes_embeddings(system_checkpoint, exported, folders, theirs):
    def make(other):
        shutil.copytree(folders[SIGMA], other, dirs_exist_ok=True, ignore=shutil.ignore_patterns("text_encoder"))
        index = json.loads((folders[SIGMA] / "model_index.json").read_text())
        index["transformer"] = ["diffusers", "Transformer2DModel"]  # as it is published
        (other / "model_index.json").write_text(json.dumps({**index, "text_encoder": [None, None]}))

    ours = load(exported(system_checkpoint("pixart-embeddings", make)))
    assert set(ours.session.bundle.components) == {"transformer", "vae_decoder"}
    arrays = {"prompt_embeds": EMBEDS, "prompt_attention_mask": np.array([[1, 1, 1, 1, 0]])}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    settings = {"height": 64, "width": 64, "num_inference_steps": 2, **EXACT}
    compare_system(
        ours, theirs[SIGMA], guidance_scale=1.0, ours_only=arrays, theirs_only=tensors, **settings
    )  # fmt: skip
    for name, arguments in (("prompt", {"prompt": "a cat"}), ("negative_prompt", arrays)):
        with pytest.raises(InputError, match=f"{name}_embeds: got none, expected hidden states of T5 with their mask"):
            ours(**arguments, **settings)


def test_generate(ours, tmp_path):
    options = [
        "--steps=2", "--seed=3", "--negative-prompt=blue", "--guidance-scale=4", "--height=64", "--width=64",
        "--no-resolution-binning", "--no-clean-caption", "--max-sequence-length=20",
    ]  # fmt: skip
    bundle = ours[ALPHA].session.bundle.root
    told = CliRunner().invoke(generate, [str(bundle), "A Cat", *options, f"-o{tmp_path}/out.png"])
    assert told.exit_code == 0, told.output
    (image,) = ours[ALPHA](
        "A Cat", num_inference_steps=2, seed=3, negative_prompt="blue", guidance_scale=4.0, height=64, width=64,
        clean_caption=False, max_sequence_length=20, **EXACT,
    ).images  # fmt: skip
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "out.png")), np.asarray(image))
