"""Prompt-to-Prompt and heat maps of `generate`: the images of the library, what a PNG keeps, and what is refused."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.cli.inspect import command as inspect
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.heat_map import draw_heat_map
from diffoundry.runtime.images.save import read_settings

PROMPTS = ("a red apple", "a green apple")
ASKED = ("--steps", "3", "--height", "64", "--width", "64", "--seed", "4")


@pytest.fixture
def generate(edited_bundle, tmp_path):
    def run(*words, fails=False):
        result = CliRunner().invoke(command, [str(edited_bundle), *words, "-o", str(tmp_path / "apple.png")])
        if fails:
            assert isinstance(result.exception, InputError), result.output
            return str(result.exception)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.slow
def test_edits_are_those_of_the_library_and_are_kept(generate, edited_bundle, tmp_path):
    edit = ("--edit", "replace", "--cross-replace-steps", "0.8", "--cross-replace-steps", "green:0.2..0.5")
    more = ("--self-replace-steps", "0.6", "--local-blend", "apple", "--local-blend-threshold", "0.7")
    reweight = ("--reweight", "green:2.5", "--reweight", "a:-1")
    report = json.loads(generate(*PROMPTS, *ASKED, *edit, *more, *reweight, "--heat-map", "red apple", "--json"))
    expected = load(edited_bundle)(
        list(PROMPTS),
        num_inference_steps=3,
        height=64,
        width=64,
        seed=4,
        heat_map_words=["red apple"],
        cross_attention_kwargs={
            "edit_type": "replace",
            "n_cross_replace": {"default_": 0.8, "green": (0.2, 0.5)},
            "n_self_replace": 0.6,
            "local_blend_words": ["apple", "apple"],
            "local_blend_threshold": 0.7,
            "equalizer_words": ["green", "a"],
            "equalizer_strengths": [2.5, -1],
        },
    )
    maps = [tmp_path / f"apple-{index}-heat-red_apple.png" for index in (0, 1)]
    assert report["heat_maps"] == [str(path) for path in maps]
    for index, path in enumerate(maps):
        image = expected.images[index]
        np.testing.assert_array_equal(pixels(tmp_path / f"apple-{index}.png"), np.asarray(image))
        drawn = draw_heat_map(expected.heat_maps["red apple"][index], image)
        np.testing.assert_array_equal(pixels(path), np.asarray(drawn))
    kept = read_settings(tmp_path / "apple-1.png")
    assert kept["edit"] == "replace"
    assert kept["cross_replace_steps"] == ["0.8", "green:0.2..0.5"]
    assert kept["seed"] == [4, 4]
    before = pixels(tmp_path / "apple-1.png")
    generate("--like", str(tmp_path / "apple-1.png"))
    np.testing.assert_array_equal(pixels(tmp_path / "apple-1.png"), before)


@pytest.mark.slow
def test_reweighting_needs_no_edit(generate, edited_bundle, tmp_path):
    generate("a red apple", "a red apple", *ASKED, "--reweight", "red:6", "--self-replace-steps", "0")
    given = {"edit_type": "reweight", "n_self_replace": 0, "equalizer_words": "red", "equalizer_strengths": 6}
    arguments = {"num_inference_steps": 3, "height": 64, "width": 64, "seed": 4, "cross_attention_kwargs": given}
    expected = load(edited_bundle)(["a red apple"] * 2, **arguments).images[1]
    np.testing.assert_array_equal(pixels(tmp_path / "apple-1.png"), np.asarray(expected))


def test_wrong_options_are_named_as_typed(generate):
    for words, message in (
        (
            ("--local-blend", "apple"),
            "--local-blend needs --edit replace, refine or reweight, the kind of edit; pass both",
        ),
        (
            ("--edit", "replace", "--self-replace-steps", "x"),
            "--self-replace-steps: got 'x', expected a fraction of the ",
        ),
        (("--edit", "replace", "--self-replace-steps", "3"), "--self-replace-steps: got 3.0, expected a number of at "),
        (
            ("--edit", "refine", "--cross-replace-steps", "2"),
            "--cross-replace-steps: got 2.0, expected a number of at ",
        ),
        (
            ("--edit", "refine", "--cross-replace-steps", "pear:1"),
            "--cross-replace-steps: got 'pear', which is no word",
        ),
        (("--reweight", "red"), "--reweight: got 'red', expected a word and a number, such as red:2"),
        (("--reweight", "pear:2"), "--reweight: got 'pear', which is no word of 'a green apple', expected one as it"),
        (
            ("--edit", "replace", "--local-blend", "red"),
            "--local-blend: got 'red', which is no word of the prompt 'a gr",
        ),
        (("--heat-map", "pear"), "--heat-map: got 'pear', which is no word of the prompt 'a red apple', expected one"),
    ):
        assert generate(*PROMPTS, *ASKED, *words, fails=True).startswith(message), words
    assert generate("a red apple", *ASKED, "--edit", "refine", fails=True) == (
        "PROMPT: got 1, expected at least two with --edit: the first is kept, the others are its edits"
    )


def test_inspect_says_that_a_bundle_takes_edits(edited_bundle):
    assert " + attention control" in CliRunner().invoke(inspect, [str(edited_bundle)]).output


def test_a_heat_map_is_bright_where_attention_is_strong():
    attention = np.zeros((4, 4), np.float32)
    attention[0, 0] = 1
    gray = Image.new("RGB", (32, 32), (128, 128, 128))
    drawn = np.asarray(draw_heat_map(attention, gray)).astype(int)
    assert drawn.shape == (32, 32, 3)
    assert drawn[2, 2].sum() > 500 > drawn[28, 28].sum()
    flat = np.asarray(draw_heat_map(np.ones((2, 2), np.float32), gray, opacity=0))
    np.testing.assert_array_equal(flat, np.asarray(gray))
