"""Sana's pipelines against diffusers, after every step."""

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.pipelines.sana import pipeline_sana as published
from PIL import Image
from system_pair import compare_system, open_theirs
from times_ahead import check_times_ahead
from tiny_sana import LATENTS, WIDTH, make_sana

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.sana_transformer_2d import read_layout
from diffoundry.runtime.pipelines.systems.sana_inputs import INSTRUCTION, SanaSprintImageInputs
from diffoundry.runtime.pipelines.systems.trained_sizes import closest_size

SANA, SPRINT, IMAGE = "SanaPipeline", "SanaSprintPipeline", "SanaSprintImg2ImgPipeline"
EXACT = {"use_resolution_binning": False}
SHORT = {"complex_human_instruction": ["Describe it:", "User Prompt: "]}


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    return {name: system_checkpoint(name, lambda folder, name=name: make_sana(folder, name)) for name in (SANA, SPRINT)}


@pytest.fixture(scope="module")
def ours(exported, folders):
    """The pipelines on ONNX Runtime; the slow tests follow them on OpenVINO too."""
    return {name: load(exported(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def theirs(folders):
    pipelines = {name: open_theirs(folder, name) for name, folder in folders.items()}
    image = diffusers.SanaSprintImg2ImgPipeline(**pipelines[SPRINT].components)
    image.set_progress_bar_config(disable=True)
    return {**pipelines, IMAGE: image}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (70, 80, 3), dtype=np.uint8))


TWO = ["a cat", "a red apple on the table"]
SEVERAL = {
    "prompt": TWO, "num_images_per_prompt": 2, "height": 96, "width": 64, "max_sequence_length": 20, **SHORT, **EXACT
}  # fmt: skip

CASES = {
    SANA: {
        "the default instruction": {"prompt": "A red Apple", "height": 64, "width": 96, **EXACT},
        "several": {**SEVERAL, "negative_prompt": ["blue", "a dog in the garden"]},
        "unguided, cut off": {
            "prompt": "a dog under a tree " * 20, "guidance_scale": 1.0, "height": 64, "width": 64,
            "max_sequence_length": 12, "complex_human_instruction": None, **EXACT,
        },
        "a size of the training": {"prompt": "a cat", "height": 200, "width": 120, "output_type": "latent", **SHORT},
    },
    SPRINT: {
        "two steps": {"prompt": "a red apple", "height": 64, "width": 96, **SHORT, **EXACT},
        "several": {
            **SEVERAL, "num_inference_steps": 3, "intermediate_timesteps": None, "max_timesteps": 1.5,
            "guidance_scale": 3.0,
        },
        "latents": {"prompt": "a cat", "height": 64, "width": 64, "output_type": "latent", **SHORT, **EXACT},
    },
    IMAGE: {
        "two steps": {"prompt": "a red apple", "image": picture(0), "height": 64, "width": 96, **SHORT, **EXACT},
        "several": {
            **SEVERAL, "image": [picture(0), picture(1)], "strength": 0.5, "num_inference_steps": 3,
            "intermediate_timesteps": None,
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_diffusers(ours, theirs, name):
    steps = {"num_inference_steps": 3} if name == SANA else {}
    for arguments in CASES[name].values():
        compare_system(ours.get(name, ours[SPRINT]), theirs[name], **{**steps, **arguments})


def test_images_are_resized_to_what_was_asked_for(ours):
    run = ours[SANA].start("a cat " * 400, height=200, width=120, num_inference_steps=1, **SHORT)
    assert run.truncated[0].endswith("a cat")
    assert (run.arguments["height"], run.arguments["width"]) == (200, 120)
    assert ours[SANA].size(ours[SANA].Inputs(prompt="a", height=200, width=120)) == (640, 384)


def test_tables_of_sizes_are_diffusers():
    processor = diffusers.image_processor.PixArtImageProcessor()
    for side in (512, 1024, 2048, 4096):
        table = getattr(published, f"ASPECT_RATIO_{side}_BIN")
        for height in range(90, 4100, 31):
            expected = processor.classify_height_width_bin(height, 1000, table)
            assert closest_size(height, 1000, side // 32, 32) == expected, (height, side)


def test_the_instruction_and_defaults_are_diffusers(ours):
    kinds = {SANA: ours[SANA].Inputs, SPRINT: ours[SPRINT].Inputs, IMAGE: SanaSprintImageInputs}
    for name, kind in kinds.items():
        for argument, parameter in inspect.signature(getattr(diffusers, name).__call__).parameters.items():
            own = kind.__dataclass_fields__.get(argument)
            if argument == "complex_human_instruction":
                assert list(own.default) == parameter.default == list(INSTRUCTION)
            elif own is not None and argument not in ("negative_prompt", "height", "width"):  # None says the same
                assert own.default == parameter.default, (name, argument)
    assert (ours[SANA].default_size, ours[SPRINT].default_size) == ((64, 64), (64, 64))


def test_steps_beside_two_have_no_intermediate_timestep(ours):
    """diffusers refuses them with its own default."""
    run = ours[SPRINT].start("a cat", num_inference_steps=4, height=64, width=64, **SHORT, **EXACT)
    np.testing.assert_allclose(run.scheduler.timesteps, np.linspace(1.5708, 0, 5), atol=1e-6)
    assert run.total == 4
    check_times_ahead(ours[SPRINT], "a cat", num_inference_steps=4, height=64, width=64, **SHORT, **EXACT)


def test_embeddings_of_a_prompt(ours, theirs):
    made = theirs[SANA].encode_prompt(TWO, negative_prompt=["blue", ""], max_sequence_length=12, **SHORT)
    names = (
        "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"
    )  # fmt: skip
    tensors = dict(zip(names, made, strict=True))
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    size = {"height": 64, "width": 64, "num_inference_steps": 2, **EXACT}
    compare_system(ours[SANA], theirs[SANA], ours_only=arrays, theirs_only={"negative_prompt": None, **tensors}, **size)
    given, passed = ({name: one[name] for name in names[:2]} for one in (arrays, tensors))
    compare_system(
        ours[SPRINT], theirs[SPRINT], ours_only=given, theirs_only=passed, **{**size, "num_inference_steps": 2}
    )


def test_other_schedulers_and_plans(ours, theirs, monkeypatch):
    for name, arguments in {
        "FlowMatchEulerDiscreteScheduler": {"sigmas": [1.0, 0.6, 0.2]},
        "UniPCMultistepScheduler": {"num_inference_steps": 3},
    }.items():
        scheduler = getattr(diffusers, name).from_config(theirs[SANA].scheduler.config)
        monkeypatch.setattr(theirs[SANA], "scheduler", scheduler)
        compare_system(
            ours[SANA], theirs[SANA], prompt="a cat", height=64, width=64, **SHORT, **EXACT, **arguments,
            ours_only={"scheduler": name.removesuffix("Scheduler")},
        )  # fmt: skip


EMBEDS = numbers(1, 5, WIDTH)
ERRORS = {
    "no prompt": (SANA, {"prompt": None}, "prompt and prompt_embeds: got neither"),
    "no prompt of Sprint": (SPRINT, {"prompt": None}, "prompt and prompt_embeds: got neither"),
    "no mask": (
        SANA, {"prompt": None, "prompt_embeds": EMBEDS},
        r"prompt_attention_mask: got none with prompt_embeds, expected one \(1, 5\)",
    ),
    "a width": (
        SPRINT, {"prompt": None, "prompt_embeds": numbers(1, 5, 7), "prompt_attention_mask": np.ones((1, 5))},
        f"prompt_embeds: got 7 numbers a token, expected {WIDTH}",
    ),
    "an odd size": (SANA, {"height": 99}, "height: got 99, expected a multiple of 4"),
    "latents": (
        SANA, {"latents": numbers(1, 4, 4, 4), "height": 64, "width": 64},
        rf"latents: got shape \(1, 4, 4, 4\), expected \(1, {LATENTS}, 16, 16\)",
    ),
    "two plans": (SANA, {"timesteps": [9], "sigmas": [1.0]}, "timesteps and sigmas: got both, expected one of them"),
    "an instruction": (
        SANA, {"complex_human_instruction": "Describe it"},
        "complex_human_instruction: got 'Describe it', expected a list of lines",
    ),
    "a long instruction": (
        SANA, {"complex_human_instruction": ["a b c"] * 2000},
        "max_sequence_length: got 300, [0-9]+ tokens with complex_human_instruction, expected at most 4096, the slidi",
    ),
    "a control image": (
        SANA, {"control_image": picture(0)}, "control_image: got one, but this bundle has no ControlNet; leave it out",
    ),
    "a control scale": (
        SANA, {"controlnet_conditioning_scale": 0.5},
        "controlnet_conditioning_scale: got one without control_image, expected both",
    ),
    "cleaning": (SPRINT, {"clean_caption": 1}, "clean_caption: got 1, expected True or False"),
    "a negative prompt": (SPRINT, {"negative_prompt": "blue"}, "negative_prompt"),
    "a timestep": (SPRINT, {"max_timesteps": 2.0}, "max_timesteps: got 2.0, expected a number of at least 0 and at mo"),
    "a second timestep": (SPRINT, {"intermediate_timesteps": 1.6}, "intermediate_timesteps: got 1.6, expected a num"),
    "a scheduler": (SPRINT, {"scheduler": "euler"}, "scheduler: .* the loop of SanaSprintPipeline runs no other"),
    "strength without an image": (SPRINT, {"strength": 0.5}, "image: got none, expected the image to start from"),
    "strength": (SPRINT, {"image": picture(0), "strength": 0}, "strength: got 0, expected a number above 0"),
}  # fmt: skip


def test_wrong_arguments_are_refused(ours):
    for name, arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours[name](**{"prompt": "a cat", "num_inference_steps": 2, **EXACT, **SHORT, **arguments})


def test_a_bundle_without_a_text_encoder_takes_embeddings(system_checkpoint, exported, folders, theirs):
    def make(other):
        shutil.copytree(folders[SANA], other, dirs_exist_ok=True, ignore=shutil.ignore_patterns("text_encoder"))
        index = json.loads((folders[SANA] / "model_index.json").read_text())
        (other / "model_index.json").write_text(json.dumps({**index, "text_encoder": [None, None]}))

    ours = load(exported(system_checkpoint("sana-embeddings", make)))
    assert set(ours.session.bundle.components) == {"transformer", "vae_decoder"}
    arrays = {"prompt_embeds": EMBEDS, "prompt_attention_mask": np.array([[1, 1, 1, 1, 0]])}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    settings = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 1.0, **EXACT}
    compare_system(ours, theirs[SANA], ours_only=arrays, theirs_only=tensors, **settings)
    with pytest.raises(InputError, match="prompt_embeds: got none, expected hidden states of Gemma 2 with their mask"):
        ours(prompt="a cat", **settings)


def test_configs_that_are_refused():
    assert read_layout({}, "config.json").layers == 20
    with pytest.raises(ConfigError, match="field 'interpolation_scale': got 0, expected a number from"):
        read_layout({"interpolation_scale": 0}, "config.json")


def test_generate(ours, tmp_path):
    options = [
        "--steps=2", "--seed=3", "--guidance-scale=4", "--height=64", "--width=64", "--no-resolution-binning",
        "--max-sequence-length=20", "--instruction=Describe it:", "--instruction=User Prompt: ", "--max-timesteps=1.5",
        "--intermediate-timesteps=1",
    ]  # fmt: skip
    bundle = ours[SPRINT].session.bundle.root
    told = CliRunner().invoke(generate, [str(bundle), "A Cat", *options, f"-o{tmp_path}/out.png"])
    assert told.exit_code == 0, told.output
    (image,) = ours[SPRINT](
        "A Cat", num_inference_steps=2, seed=3, guidance_scale=4.0, height=64, width=64, max_sequence_length=20,
        max_timesteps=1.5, intermediate_timesteps=1.0, **SHORT, **EXACT,
    ).images  # fmt: skip
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(image))
