"""The command line as a user types it: results, files, exit codes and sentences."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffoundry.runtime.cli import group
from diffoundry.runtime.cli.main import main
from diffoundry.runtime.install_hint import install_command


@pytest.fixture
def diffoundry(monkeypatch, capsys):
    """Run a command in this process; gives exit code, standard output and standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["diffoundry", *map(str, words)])
        code, sentence = 0, ""
        try:
            main()
        except SystemExit as end:
            code, sentence = (1, end.code) if isinstance(end.code, str) else (end.code, "")
        captured = capsys.readouterr()
        return code, captured.out, captured.err + sentence

    return run


_QUICK = ("--steps", "3", "--seed", "7")


def test_generate_writes_a_image_with_its_settings(diffoundry, emoji_bundle, tmp_path):
    image = tmp_path / "apple.png"
    code, out, _ = diffoundry("generate", emoji_bundle, "a red apple", *_QUICK, "-o", image, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["files"] == [str(image)]
    assert report["settings"]["seed"] == 7
    assert Image.open(image).size == (64, 64)
    assert np.asarray(Image.open(image)).std() > 10


def test_the_same_seed_gives_the_same_file(diffoundry, emoji_bundle, tmp_path):
    for name in ("one.png", "two.png"):
        diffoundry("generate", emoji_bundle, "a red apple", *_QUICK, "-o", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_like_generates_the_same_again_and_options_win(diffoundry, emoji_bundle, tmp_path):
    first, again, other = tmp_path / "first.png", tmp_path / "again.png", tmp_path / "other.png"
    settings = ("--negative", "blue", "--guidance-scale", "5", "--scheduler", "EulerDiscrete")
    diffoundry("generate", emoji_bundle, "a cat face", *settings, *_QUICK, "-o", first)
    diffoundry("generate", emoji_bundle, "--like", first, "-o", again)
    diffoundry("generate", emoji_bundle, "--like", first, "--seed", "8", "-o", other)
    assert again.read_bytes() == first.read_bytes()
    assert Image.open(other).tobytes() != Image.open(first).tobytes()


def test_like_generates_several_again(diffoundry, emoji_bundle, tmp_path):
    _, out, _ = diffoundry(
        "generate", emoji_bundle, "a fish", *_QUICK, "--num-images", "2", "-o", tmp_path / "fish.png", "--json"
    )
    files = json.loads(out)["files"]
    assert files == [str(tmp_path / "fish-0.png"), str(tmp_path / "fish-1.png")]
    diffoundry("generate", emoji_bundle, "--like", files[1], "-o", tmp_path / "again.png")
    assert (tmp_path / "again-1.png").read_bytes() == (tmp_path / "fish-1.png").read_bytes()


def test_a_long_prompt_says_what_was_cut(diffoundry, emoji_bundle, tmp_path):
    _, _, err = diffoundry("generate", emoji_bundle, "cat " * 90 + "dog", *_QUICK, "-o", tmp_path / "x.png")
    assert "this part of the prompt is cut off" in err
    assert "dog" in err
    assert "; pass --long-prompts to keep it" in err


def test_a_long_prompt_names_no_option_that_the_pipeline_lacks(diffoundry, portable_bundle, tmp_path):
    options = ("--target", "onnxruntime", "--steps", "1", "--seed", "7", "-o", tmp_path / "x.png")
    code, _, err = diffoundry("generate", portable_bundle("sd3"), "cat " * 90 + "dog", *options)
    assert code == 0, err
    assert "is cut off" in err
    assert "shorten the prompt" in err
    assert "--long-prompts" not in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["generate", "{bundle}"], 1, "PROMPT: got none, expected a text after DIR, or --like"),
        (["generate", "{bundle}", "x", "--steps", "0"], 1, "error: --steps: got 0, expected a whole number"),
        (["generate", "{bundle}", "x", "--num-inference-steps=0"], 1, "error: --num-inference-steps: got 0, expected"),
        (["generate", "{bundle}", "x", "--num-images-per-prompt", "0"], 1, "error: --num-images-per-prompt: got 0, ex"),
        (
            ["generate", "{bundle}", "x", "--num-inference-steps", "y"],
            2,
            "value for '--num-inference-steps': 'y' is not",
        ),
        (["generate", "{bundle}", "x", "--threads", "1000000"], 2, "1000000 is not in the range 1<=x<="),
        (["generate", "{bundle}", "x", "--height", "0"], 2, "0 is not in the range x>=1"),
        (["generate", "{bundle}", "x", "--eta", "nan"], 1, "error: --eta: got nan, expected a finite number"),
        (["generate", "{bundle}", "x", "--control-end", "inf"], 1, "error: --control-end: got inf, expected a finite"),
        (
            ["generate", "{bundle}", "x", "--strength", "0.5"],
            1,
            "--strength: text to image has no such argument; pass --image",
        ),
        (
            ["generate", "{bundle}", "x", "--seed", "1", "--seed", "2"],
            1,
            "error: --seed: got 2 seeds, expected one or 1",
        ),
        (["generate", "{bundle}", "x", "-o", ""], 1, "--output: got an empty name, expected a file such as out.png"),
        (["generate", "", "x"], 1, "error: DIR: got an empty value; pass one"),
        (["generate", "{bundle}", "x", "--image", ""], 1, "error: --image: got an empty value; pass one"),
        (["generate", "{bundle}", "x", "--like="], 1, "error: --like: got an empty value; pass one"),
        (["generate", "{bundle}", "x", "--cache-dir", ""], 1, "error: --cache-dir: got an empty value; pass one"),
        (
            ["generate", "{bundle}", "x", "--device", ""],
            1,
            "error: --device: got an empty value; pass one, or leave the",
        ),
        (
            ["generate", "{bundle}", "x", "--target", ""],
            1,
            "error: --target: got an empty value; pass one, or leave the",
        ),
        (["generate", "{bundle}", "x", "--lora", ""], 1, "error: --lora: got an empty value; pass one, or leave the"),
        (["bench", "{bundle}", "--precision", ""], 1, "error: --precision: got an empty value; pass one, or leave the"),
        (
            ["export", "emoji", "--target", "onnxruntime", "--precision", "", "-o", "x"],
            1,
            "--precision: got an empty value",
        ),
        (["convert", "", "-o", "{tmp}/b"], 1, "error: MODEL: got an empty value; pass one"),
        (["generate", "{bundle}", "--like", "{tmp}/no.png"], 1, "error: --like {tmp}/no.png: cannot be read (No such"),
        (
            ["generate", "{bundle}", "x", "-o", "{tmp}/" + "n" * 300],
            1,
            "cannot be written (File name too long); choose",
        ),
        (["generate", "{bundle}", "x", "-o", "{tmp}/a/b/"], 1, "its folder {tmp}/a does not exist; make it, or choose"),
        (
            ["generate", "{bundle}", "x", "-o", "{tmp}/x.gif"],
            1,
            "got the suffix '.gif', expected one of .png, .jpg, .jp",
        ),
        (["generate", "{bundle}", "x" * 600_000], 1, "bytes of settings, expected at most 524288; shorten the prompts"),
        (["generate", "{bundle}", "x", "--original-size", "9" * 5000], 1, "999...', expected WIDTHxHEIGHT, two whole"),
        (["generate", "{bundle}", "x", "--steps", "many"], 2, "'many' is not a valid integer"),
        (
            ["generate", "{bundle}", "x", "--scheduler", "Magic"],
            1,
            "error: --scheduler: got 'Magic'. Expected one of ddim",
        ),
        (["generate", "{bundle}", "x", "--height", "65"], 1, "error: --height: got 65, expected a multiple of 8"),
        (
            ["generate", "{bundle}", "x", "--prompt-3", "y"],
            1,
            "--prompt-3: no such argument of this pipeline; leave it out",
        ),
        (
            ["generate", "{bundle}", "x", "--negative-3", "y"],
            1,
            "--negative-3: no such argument of this pipeline. Did you mean --negative?",
        ),
        (["generate", "{bundle}", "x", "--device", "abacus"], 1, "error: --device: got 'abacus', expected one of cpu"),
        (["generate", "{bundle}", "x", "--target", "abacus"], 1, "got no engine for abacus, the bundle holds onnx"),
        (["generate", "{bundle}", "x", "--steps", "1", "-o", "{tmp}/no/such/x.png"], 1, "{tmp}/no/such"),
        (["generate", "{tmp}/nothing", "x"], 1, "got nothing there, expected a folder made by 'diffoundry export'"),
        (["inspect", "{tmp}"], 1, "got a folder without diffoundry.json and model_index.json"),
        (["frobnicate"], 2, "No such command 'frobnicate'"),
        (["export", "--model", "emoji", "-o", "{tmp}/b"], 2, "Missing option '--target'"),
        (["export", "--model", "emoji", "--target", "abacus", "-o", "{tmp}/b"], 1, "--target: got 'abacus', expected"),
        # A repeated option adds: the last one does not hide those before it.
        (
            ["export", "--model", "emoji", "--target", "abacus", "--target", "onnxruntime", "-o", "{tmp}/b"],
            1,
            "--target: got 'abacus', expected",
        ),
        (["build", "{bundle}", "--target", "abacus", "--target", "onnxruntime"], 1, "--target: got 'abacus', expected"),
        (
            ["export", "--model", "nope", "--target", "onnxruntime", "-o", "{tmp}/b"],
            1,
            "no folder or file 'nope' here",
        ),
        (
            ["export", "--model", "emoji", "--target", "onnxruntime", "-o", "{tmp}/b", "--height", "big"],
            1,
            "--height: got 'big', expected a number such as 512 or a range such as 256..1024",
        ),
        (
            ["export", "--model", "emoji", "--target", "onnxruntime", "-o", "{tmp}/b", "--width", "128..64"],
            1,
            "--width: got the range '128..64', expected the smaller end first",
        ),
        (
            ["export", "--model", "emoji", "--target", "onnxruntime", "-o", "{tmp}/b", "--width", "100"],
            1,
            "--width: got 100, expected a multiple of 8 for this checkpoint",
        ),
        (
            ["export", "--model", "emoji", "--target", "onnxruntime", "-o", "{tmp}/b", "--precision", "fp12"],
            1,
            "--precision: got 'fp12', expected one of fp32, fp16, bf16",
        ),
        (
            ["export", "--model", "emoji", "--target", "onnxruntime", "-o", "{tmp}/b", "--prediction-type", "epsilon"],
            1,
            "prediction type: got 'epsilon' with the model 'emoji', expected it with a single file only",
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_wrong_usage_ends_in_one_sentence(diffoundry, emoji_bundle, tmp_path, words, code, message):
    words = [word.format(bundle=emoji_bundle, tmp=tmp_path) for word in words]
    got, out, err = diffoundry(*words)
    assert (got, out) == (code, "")
    assert message.format(tmp=tmp_path) in err.replace("\n", " ")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_errors_are_json_with_json(diffoundry, emoji_bundle, tmp_path):
    """On standard output for programs, and as a sentence on standard error as ever."""
    for words, code, kind, message in (
        (
            ("generate", emoji_bundle, "x", "--steps", "0"),
            1,
            "InputError",
            "--steps: got 0, expected a whole number of",
        ),
        (("generate", emoji_bundle, "x", "--steps", "y"), 2, "BadParameter", "Invalid value for '--steps': 'y' is not"),
        (("generate", emoji_bundle, "x", "--stepps", "1"), 2, "NoSuchOption", "No such option"),
        (("inspect", tmp_path), 1, "BundleError", "got a folder without diffoundry.json"),
        (
            ("generate", emoji_bundle, "x", "--device", "abacus"),
            1,
            "EngineError",
            "--device: got 'abacus', expected one",
        ),
    ):
        got, out, err = diffoundry(*words, "--json")
        error = json.loads(out)["error"]
        assert (got, error["type"]) == (code, kind)
        assert message in error["message"]
        assert message in err


def test_inspect_shows_recipe_and_engines(diffoundry, emoji_bundle):
    _, out, _ = diffoundry("inspect", emoji_bundle)
    assert f"{emoji_bundle}: stable_diffusion, " in out
    assert "onnxruntime fp32" in out
    assert "DDIMScheduler, v_prediction\n" in out
    _, out, _ = diffoundry("inspect", emoji_bundle, "--json")
    shown = json.loads(out)
    assert shown["manifest"]["recipe"]["model"] == "emoji"
    assert shown["components"] == ["text_encoder", "unet", "vae_encoder", "vae_decoder"]


def test_inspect_shows_no_prediction_type_of_flow_matching(diffoundry, portable_bundle):
    _, out, _ = diffoundry("inspect", portable_bundle("sd3"))
    assert "scheduler  FlowMatchEulerDiscreteScheduler\n" in out


@pytest.mark.parametrize("words", [("generate", "{folder}", "x"), ("inspect", "{folder}")])
def test_a_checkpoint_instead_of_a_bundle_is_named(diffoundry, tiny_sd_checkpoint, words):
    folder = tiny_sd_checkpoint("sd1")
    code, out, err = diffoundry(*(word.format(folder=folder) for word in words))
    assert (code, out) == (1, "")
    assert f"bundle {folder}: this is a PyTorch checkpoint in diffusers format, not a bundle; make one with" in err
    assert f"'diffoundry export --model {folder} --target onnxruntime -o NAME.bundle'" in err


def test_help_states_the_default_of_each_pipeline(diffoundry):
    _, out, _ = diffoundry("generate", "--help")
    text = " ".join(out.split())
    assert "[default: the pipeline's own: 50 for most, 28 for Stable Diffusion 3 and FLUX.1]" in text
    scales = "7.5; Stable Diffusion XL: 5; Stable Diffusion 3: 7; FLUX.1: 3.5"
    assert f"[default: the pipeline's own: {scales}]" in text


def test_a_folder_without_a_manifest_generates_the_same(diffoundry, emoji_bundle, tmp_path):
    folder = tmp_path / "optimum"
    shutil.copytree(emoji_bundle, folder)
    (folder / "diffoundry.json").unlink()
    for bundle, name in ((emoji_bundle, "ours.png"), (folder, "optimum.png")):
        code, _, err = diffoundry("generate", bundle, "a rocket", *_QUICK, "-o", tmp_path / name)
        assert code == 0, err
    assert Image.open(tmp_path / "ours.png").tobytes() == Image.open(tmp_path / "optimum.png").tobytes()
    assert "without a manifest" in diffoundry("inspect", folder)[1]


def test_targets_lists_what_is_here(diffoundry):
    _, out, _ = diffoundry("targets", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["onnxruntime"]["installed"]
    assert "cpu" in rows["onnxruntime"]["devices"]


def test_a_missing_extra_is_one_sentence(diffoundry, monkeypatch):
    monkeypatch.setitem(group.COMMANDS, "export", ("diffoundry.exporter.absent_library:command", "x"))
    monkeypatch.setattr(
        group, "resolve", lambda _: (_ for _ in ()).throw(ModuleNotFoundError("No module named 'torch'", name="torch"))
    )
    code, _, err = diffoundry("export")
    assert code == 1
    assert "error: 'diffoundry export' needs the Python package 'torch'" in err
    assert f"Install it with: {install_command('export')}" in err


def test_without_click_the_command_says_what_to_install():
    code = "import sys; sys.modules['click'] = None; from diffoundry.runtime.cli.main import main; main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip() == (
        "error: the command line needs the Python package 'click', which is not installed. "
        f"Install it with: {install_command('cli')}"
    )


def test_generate_from_a_image(diffoundry, emoji_bundle, tmp_path):
    first, second, again = tmp_path / "first.png", tmp_path / "second.png", tmp_path / "again.png"
    diffoundry("generate", emoji_bundle, "a red apple", *_QUICK, "-o", first)
    words = "--image", first, "--strength", "0.7"
    code, out, _ = diffoundry("generate", emoji_bundle, "a green apple", *words, *_QUICK, "-o", second, "--json")
    assert code == 0
    assert json.loads(out)["settings"] | {"image": "first.png", "strength": 0.7} == json.loads(out)["settings"]
    assert Image.open(second).tobytes() != Image.open(first).tobytes()
    diffoundry("generate", emoji_bundle, "--like", second, "--image", first, "-o", again)
    assert again.read_bytes() == second.read_bytes()


def test_a_file_that_is_no_image_is_named(diffoundry, emoji_bundle, tmp_path):
    (tmp_path / "no.png").write_text("no image")
    code, _, err = diffoundry("generate", emoji_bundle, "x", "--image", tmp_path / "no.png", "-o", tmp_path / "x.png")
    assert code == 1
    assert f"image {tmp_path / 'no.png'}: cannot be read" in err


def test_generate_with_stable_diffusion_xl(diffoundry, exported, tiny_sd_checkpoint, tmp_path):
    bundle, image, again = exported(tiny_sd_checkpoint("xl")), tmp_path / "xl.png", tmp_path / "again.png"
    words = "--prompt-2", "a cat", "--original-size", "48x32", "--crops-coords-top-left", "8,4"
    code, out, _ = diffoundry("generate", bundle, "a red apple", *words, *_QUICK, "-o", image, "--json")
    assert code == 0
    settings = json.loads(out)["settings"]
    assert settings["original_size"] == [32, 48]
    assert settings["crops_coords_top_left"] == [8, 4]
    diffoundry("generate", bundle, "--like", image, "-o", again)
    assert again.read_bytes() == image.read_bytes()
    code, _, err = diffoundry("generate", bundle, "x", "--target-size", "48", "-o", image)
    assert code == 1
    assert "--target-size: got '48', expected WIDTHxHEIGHT, two whole numbers" in err
    _, _, err = diffoundry("generate", bundle, "x", "--skip-layers", "7,x", "-o", tmp_path / "x.png")
    assert "--skip-layers: got '7,x', expected whole numbers with commas, such as 7,8,9" in err


def test_generate_with_stable_diffusion_3(diffoundry, portable_bundle, tmp_path):
    bundle, image, again = portable_bundle("sd3"), tmp_path / "sd3.png", tmp_path / "again.png"
    words = "--prompt-3", "a cat", "--negative-3", "blue", "--max-sequence-length", "64", "--skip-layers", "0,1"
    code, out, _ = diffoundry("generate", bundle, "a red apple", *words, *_QUICK, "-o", image, "--json")
    assert code == 0
    settings = json.loads(out)["settings"]
    assert [settings[name] for name in ("prompt_3", "negative_prompt_3", "max_sequence_length")] == [
        "a cat",
        "blue",
        64,
    ]
    diffoundry("generate", bundle, "--like", image, "-o", again)
    assert again.read_bytes() == image.read_bytes()
    code, _, _ = diffoundry("generate", bundle, "x", "--image", image, *_QUICK, "-o", tmp_path / "changed.png")
    assert code == 0
    code, _, err = diffoundry("generate", bundle, "x", "--depth-map", image, "-o", again)
    assert code == 1
    assert "--depth-map: text to image and image to image and inpainting is all that this checkpoint does here" in err
