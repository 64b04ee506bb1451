"""--like of `generate`: effective settings, wrong types, other bundles, other tasks, and files."""

import json
import shutil

import pytest
from click.testing import CliRunner
from PIL import Image
from sd_parsers import ParserManager

from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings, save_image


@pytest.fixture
def generate(emoji_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*options, bundle=emoji_bundle):
        return CliRunner().invoke(command, [str(bundle), *map(str, options)])

    return run


ASKED = ("a fox", "--steps", "2", "--seed", "0")


def test_every_default_is_written_and_other_programs_read_it(generate, emoji_bundle):
    assert generate(*ASKED, "-o", "x.png").exit_code == 0
    settings = read_settings("x.png")
    effective = {
        "num_inference_steps": 2,
        "guidance_scale": 7.5,
        "guidance_rescale": 0.0,
        "eta": 0.0,
        "height": 64,
        "width": 64,
        "num_images_per_prompt": 1,
        "prompt_weighting": False,
        "long_prompts": False,
        "scheduler": "DDIM",
        "target": "onnxruntime",
        "precision": "fp32",
        "device": "cpu",
    }
    assert settings.items() >= effective.items()
    assert set(settings["defaulted"]) == {
        "guidance_scale", "guidance_rescale", "eta", "height", "width", "num_images_per_prompt", "prompt_weighting",
        "long_prompts", "scheduler",
    }  # fmt: skip
    (sampler,) = (found := ParserManager().parse("x.png")).samplers
    assert (sampler.name, sampler.prompts[0].value) == ("DDIM", "a fox")
    assert sampler.parameters == {"cfg_scale": "7.5", "seed": "0", "steps": "2", "scheduler": "Automatic"}
    assert sampler.model.name == emoji_bundle.stem
    assert sampler.model.hash == settings["model_hash"]
    assert found.metadata["Size"] == "64x64"


def test_defaults_of_another_task_or_bundle_apply(generate, emoji_bundle, tmp_path):
    """A default size is dropped where the size of --image decides; a chosen one is not."""
    generate(*ASKED, "-o", "x.png")
    Image.new("RGB", (72, 64), "red").save("wide.png")
    words = ("--like", "x.png", "--image", "wide.png", "-o", "y.png")
    result = generate(*words)
    assert result.exit_code == 0, result.output
    assert Image.open("y.png").size == (72, 64)
    generate(*ASKED, "--width", "64", "--scheduler-option", "timestep_spacing=trailing", "-o", "x.png")
    assert "--width: got 64, expected the image's 72" in str(generate(*words).exception)

    copy = shutil.copytree(emoji_bundle, tmp_path / "renamed.bundle")
    assert "was generated with" not in generate("--like", "x.png", "-o", "y.png", bundle=copy).output
    assert Image.open("y.png").tobytes() == Image.open("x.png").tobytes()
    manifest = json.loads((copy / "diffoundry.json").read_text())
    weights = next(name for name in manifest["recipe"]["source"] if name.endswith(".safetensors"))
    manifest["recipe"]["source"][weights] = "0" * 64
    (copy / "diffoundry.json").write_text(json.dumps(manifest))
    result = generate("--like", "x.png", "-o", "y.png", bundle=copy)
    assert result.exit_code == 0, result.output
    note = f"note: x.png was generated with {emoji_bundle.name}, so this bundle generates another image"
    assert note in result.output.replace("\n", "")
    assert "scheduler_options" not in read_settings("y.png")


def test_files_must_be_passed_again(generate):
    generate(*ASKED, "-o", "x.png")
    generate(*ASKED, "--image", "x.png", "-o", "y.png")
    files = {"control_image": ["a.png", "b.png"], "control_mask": "m.png", "lora": ["x.safetensors:0.8"]}
    save_image(Image.open("x.png"), "z.png", {"prompt": "a fox", **files})
    for name, words in (
        ("y.png", "--image x.png"),
        ("z.png", "--control-image a.png --control-image b.png --control-mask m.png --lora x.safetensors:0.8"),
    ):
        assert str(generate("--like", name).exception) == (
            f"--like: the image was generated with {words}; pass that too, with where the files are now"
        )


def test_settings_of_wrong_types_are_refused(generate):
    image = Image.new("RGB", (8, 8))
    for name, value, wanted in (
        ("num_images_per_prompt", 2.5, "a whole number"),
        ("num_images_per_prompt", "2", "a whole number"),
        ("num_images_per_prompt", {}, "a whole number"),
        ("num_inference_steps", True, "a whole number"),
        ("guidance_scale", "7", "a number"),
        ("seed", [1, "2"], "a whole number, or a list of them"),
        ("prompt", 5, "a text, or a list of them"),
        ("prompt_weighting", 1, "true or false"),
        ("original_size", [1], "two whole numbers"),
        ("skip_guidance_layers", "7", "a list of whole numbers"),
        ("scheduler_options", [1], "an object of numbers, texts and booleans"),
        ("scheduler", ["a"], "a text"),
        ("lora", 7, "a text, or a list of them"),
        ("control_image", [[]], "a text, or a list of them"),
        ("image", [1], "a text, or a list of them"),
        ("vae_tiling", "yes", "true or false"),
    ):
        save_image(image, "x.png", {"prompt": "a fox", name: value})
        error = generate("--like", "x.png").exception
        assert isinstance(error, InputError), (name, error)
        assert str(error) == f"--like x.png: got {name!r} {value!r}, expected {wanted}; this image was changed"
