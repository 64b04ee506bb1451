"""Prompt-to-Prompt beside its written-out form on diffusers' pipeline: the latents after every step.

prompt_to_prompt.json holds the alignments of diffusers' community pipeline `pipeline_prompt2prompt` (commit 0206601):
its functions `get_replacement_mapper_`, `get_mapper`, `get_word_inds` and `get_time_words_attention_alpha`, called with
the tokenizer of models/emoji and transformers 5.23. Whole runs of that pipeline on a UNet of its own layout, recorded
once, differed by up to 3e-5 of the RMS.
"""

import copy
import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline
from written_out_attention import Edit, edited_steps

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.unet_2d_condition import UNet2DConditionModel
from diffoundry.runtime.pipelines.attention.control import AttentionInputs, check_attention
from diffoundry.runtime.pipelines.attention.edit_options import read_edit_options
from diffoundry.runtime.pipelines.attention.prompt_to_prompt import PromptEdit
from diffoundry.runtime.pipelines.attention.words import read_words, refinement_map, replacement_map
from diffoundry.runtime.pipelines.families.stable_diffusion import CLIPPromptInputs
from diffoundry.runtime.tokenizers.clip import ClipTokenizer

RECORDED = json.loads((Path(__file__).parent / "prompt_to_prompt.json").read_text(encoding="utf-8"))

BASE = "a red apple on the table"
REPLACED = "a green pineapple on the table"
REFINED = "a photo of a red apple on the big table"

SHOWN = ("down_blocks.0", "up_blocks.1")
"""Blocks whose maps are put out."""

STEPS = 3
ARGUMENTS = {"num_inference_steps": STEPS, "height": 64, "width": 64}


@pytest.fixture(scope="session")
def tokenizer(emoji_folder):
    return ClipTokenizer.from_folder(emoji_folder / "tokenizer")


@pytest.fixture(scope="session")
def words(tokenizer):
    return lambda prompt: read_words(tokenizer, prompt, "cross_attention_kwargs")


@pytest.fixture(scope="module")
def folder(tiny_sd_checkpoint):
    return tiny_sd_checkpoint("sd1-edited")


@pytest.fixture(scope="module")
def pipe(edited_bundle):
    return load(edited_bundle)


@pytest.fixture(scope="module")
def theirs(folder):
    return diffusers_pipeline(folder)


def test_alignments_are_those_of_the_community_pipeline(words):
    for case in RECORDED["replace"]:
        expected = np.zeros((77, 77), np.float32)
        for row, column, share in case["entries"]:
            expected[row, column] = share
        np.testing.assert_array_equal(replacement_map(*map(words, case["prompts"])), expected, str(case["prompts"]))
    for case in RECORDED["refine"]:
        change, keep = refinement_map(*map(words, case["prompts"]))
        partners, shared = np.array(case["mapper"]), np.array(case["alphas"])
        expected = np.zeros((77, 77), np.float32)
        expected[partners[shared == 1], np.flatnonzero(shared)] = 1
        np.testing.assert_array_equal(change, expected, str(case["prompts"]))
        np.testing.assert_array_equal(keep, 1 - shared)
    for case in RECORDED["words"]:
        assert words(case["prompt"]).find(case["word"]) == case["places"], case


def test_windows_are_those_of_the_community_pipeline(words):
    for case in RECORDED["windows"]:
        given = {"edit_type": "reweight", "n_cross_replace": case["window"], "equalizer_words": ["green"]}
        options = read_edit_options({**given, "equalizer_strengths": [1]}, 2)
        edit = PromptEdit(options, [words(prompt) for prompt in case["prompts"]], case["steps"])
        for step, row in enumerate(case["alphas"]):
            change, keep = edit.at(step)
            np.testing.assert_array_equal(np.diag(change[0]), [int(digit) for digit in row])
            np.testing.assert_array_equal(keep[0], [1 - int(digit) for digit in row])


def replace_case():
    return next(case for case in RECORDED["replace"] if case["prompts"] == [BASE, REPLACED])


def mapper():
    result = np.zeros((77, 77), np.float32)
    for row, column, share in replace_case()["entries"]:
        result[row, column] = share
    return result


def refine_case():
    return next(case for case in RECORDED["refine"] if case["prompts"] == [BASE, REFINED])


def windows(end, word=None, word_end=0, length=STEPS):
    """The window of all words, and another of the tokens of one word."""
    gate = np.zeros((length + 1, 77), int)
    gate[:end] = 1
    if word is not None:
        gate[:, word] = 0
        gate[:word_end, word] = 1
    return gate


def marks(*places):
    return [np.isin(np.arange(77), one).astype(np.float32) for one in places]


CASES = {
    "replace": (
        [BASE, REPLACED],
        {"edit_type": "replace", "n_cross_replace": 0.8, "n_self_replace": 0.7},
        lambda: Edit(mapper=mapper(), windows=windows(3), self_steps=(0, 2)),
    ),
    "replace, a window of one word": (
        [BASE, REPLACED],
        {"edit_type": "replace", "n_cross_replace": {"default_": 1, "green": (0, 0.3)}, "n_self_replace": (0.4, 1)},
        lambda: Edit(mapper=mapper(), windows=windows(4, 2, 1), self_steps=(1, 3)),
    ),
    "refine": (
        [BASE, REFINED],
        {"edit_type": "refine", "n_cross_replace": 0.8, "n_self_replace": 0},
        lambda: Edit(partners=refine_case()["mapper"], shared=refine_case()["alphas"], windows=windows(3)),
    ),
    "reweight": (
        [BASE, BASE],
        {
            "edit_type": "reweight",
            "n_cross_replace": 1,
            "n_self_replace": 0.4,
            "equalizer_words": ["red", "table"],
            "equalizer_strengths": [4, -1.5],
        },
        lambda: Edit(
            strengths=np.float32(1) + 3 * marks([2])[0] - 2.5 * marks([6])[0], windows=windows(4), self_steps=(0, 1)
        ),
    ),
    "replace, reweight, local blend": (
        [BASE, REPLACED],
        {
            "edit_type": "replace",
            "n_cross_replace": 0.5,
            "n_self_replace": 0.4,
            "equalizer_words": "green",
            "equalizer_strengths": 3,
            "local_blend_words": ["apple", ["green"]],
            "local_blend_threshold": 0.8,
        },
        lambda: Edit(
            mapper=mapper(),
            strengths=np.float32(1) + 2 * marks([2])[0],
            windows=windows(2),
            self_steps=(0, 1),
            blend=np.stack(marks([3], [2])),
            threshold=0.8,
        ),
    ),
    "refine, local blend": (
        [BASE, REFINED],
        {
            "edit_type": "refine",
            "n_cross_replace": 0.5,
            "n_self_replace": 0.4,
            "local_blend_words": [["apple", "red"], "apple"],
            "local_blend_threshold": 0.75,
        },
        lambda: Edit(
            partners=refine_case()["mapper"],
            shared=refine_case()["alphas"],
            windows=windows(2),
            self_steps=(0, 1),
            blend=np.stack(marks([2, 3], [refine_case()["mapper"].index(3)])),
            threshold=0.75,
        ),
    ),
}


def noise(prompts, height=8, width=8):
    one = np.random.default_rng(0).standard_normal((1, 4, height, width)).astype(np.float32)
    return np.repeat(one, len(prompts), axis=0)


def follow(ours, theirs, name, *, shown=SHOWN, effect=0.01, **more):
    """Compare one case after every step, and check that the edit is no small thing."""
    prompts, given, make = CASES[name]
    arguments = {**ARGUMENTS, **more}
    latents = noise(prompts, arguments["height"] // 8, arguments["width"] // 8)
    expected = edited_steps(theirs, prompts, make(), shown, latents=torch.from_numpy(latents), **arguments)
    run = ours.start(prompts, latents=latents, cross_attention_kwargs=given, output_type="latent", **arguments)
    for step, one in zip(run, expected, strict=True):
        error = np.abs(step.latents - one).max() / np.sqrt((one**2).mean())
        assert error < 1e-4, f"{name}, step {step.index}: {error}"
    plain = ours(prompts, latents=latents, output_type="latent", **arguments).images
    assert np.abs(plain - expected[-1])[1].max() > effect, name
    return expected


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_edits_follow_the_written_out_form(edited_bundle, theirs, target):
    ours = load(edited_bundle, target=target)
    for name in CASES if target == "onnxruntime" else ("replace, reweight, local blend", "refine"):
        follow(ours, theirs, name)


def test_without_guidance_and_in_odd_sizes(pipe, theirs):
    follow(pipe, theirs, "replace", guidance_scale=1.0)
    follow(pipe, theirs, "refine", height=72, width=40, num_inference_steps=STEPS)


def test_without_edits_it_is_the_plain_pipeline(pipe, theirs):
    """Within 1e-5: the layers whose maps are put out sum in another order."""
    worst, _ = compare(pipe, theirs, [BASE, REFINED], num_images_per_prompt=2, **ARGUMENTS)
    assert worst < 1e-5


def test_every_edited_prompt_and_image_has_its_own_base(pipe):
    """Three prompts with two images each are three pairs, generated one by one."""
    prompts = [BASE, REPLACED, "a red umbrella on the table"]
    given = {"edit_type": "replace", "n_cross_replace": 0.8, "n_self_replace": 0.4, "local_blend_threshold": 0.8}
    arguments = {**ARGUMENTS, "output_type": "latent"}
    blend = {"local_blend_words": ["table"] * 3}
    together = pipe(prompts, seed=5, num_images_per_prompt=2, cross_attention_kwargs={**given, **blend}, **arguments)
    assert together.seed == (5, 6) * 3
    images = together.images.reshape(3, 2, 4, 8, 8)
    for seed in (5, 6):
        for number in (1, 2):
            blend = {"local_blend_words": ["table"] * 2}
            pair = pipe([BASE, prompts[number]], seed=seed, cross_attention_kwargs={**given, **blend}, **arguments)
            np.testing.assert_allclose(images[[0, number], seed - 5], pair.images, atol=2e-5)
    plain = pipe(BASE, seed=5, **arguments)
    np.testing.assert_allclose(images[0, 0], plain.images[0], atol=2e-5)


def test_engines_of_few_rows_run_the_halves_of_guidance_one_by_one(pipe, monkeypatch):
    arguments = {"seed": 0, "cross_attention_kwargs": CASES["refine"][1], "output_type": "latent", **ARGUMENTS}
    expected = pipe([BASE, REFINED], **arguments).images
    monkeypatch.setattr(UNet2DConditionModel, "row_limit", 2)
    np.testing.assert_allclose(pipe([BASE, REFINED], **arguments).images, expected, atol=2e-5)
    with pytest.raises(InputError, match=r"prompt: got 3 with cross_attention_kwargs and 1 images .* at most 2 images"):
        pipe([BASE, REFINED, REFINED], **arguments)


def test_schedulers_of_second_order_count_their_own_calls(pipe, theirs):
    """Heun calls the UNet 5 times in 3 steps; windows are fractions of the calls."""
    edit = Edit(mapper=mapper(), windows=windows(3, length=5), self_steps=(0, 2))
    theirs = copy.copy(theirs)
    theirs.scheduler = diffusers.HeunDiscreteScheduler.from_config(theirs.scheduler.config)
    arguments = {**ARGUMENTS, "latents": noise([BASE, REPLACED])}
    more = {**arguments, "latents": torch.from_numpy(arguments["latents"])}
    expected = edited_steps(theirs, [BASE, REPLACED], edit, SHOWN, **more)
    given = {"edit_type": "replace", "n_cross_replace": 0.5, "n_self_replace": 0.4}
    run = pipe.start([BASE, REPLACED], cross_attention_kwargs=given, scheduler="HeunDiscrete", **arguments)
    for step, one in zip(run, expected, strict=True):
        np.testing.assert_allclose(step.latents, one, atol=1e-4 * np.sqrt((one**2).mean()))


def test_image_to_image(pipe, theirs):
    """2 of 4 steps run, and windows are fractions of these."""
    theirs = diffusers.StableDiffusionImg2ImgPipeline(**theirs.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    arguments = {"image": Image.fromarray(pixels), "strength": 0.5, "num_inference_steps": 4}
    edit = Edit(mapper=mapper(), windows=windows(2, length=2), self_steps=(0, 1))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    expected = edited_steps(theirs, [BASE, REPLACED], edit, SHOWN, generator=generators, **arguments)
    given = {"edit_type": "replace", "n_cross_replace": 0.7, "n_self_replace": 0.5}
    run = pipe.start([BASE, REPLACED], cross_attention_kwargs=given, seed=3, **arguments)
    for step, one in zip(run, expected, strict=True):
        np.testing.assert_allclose(step.latents, one, atol=1e-4 * np.sqrt((one**2).mean()))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_stable_diffusion_2(exported, tiny_sd_checkpoint, target):
    """v-prediction, heads per level, linear projections; three levels, of which the finest is put out."""
    folder = tiny_sd_checkpoint("sd2")
    ours = load(exported(folder, target=target, attention_control=True))
    theirs = diffusers_pipeline(folder)
    for name in CASES:
        follow(ours, theirs, name, shown=("down_blocks.0", "up_blocks.2"), effect=1e-4)


def test_heat_maps_are_the_mean_of_the_maps(pipe, theirs):
    """Of all layers of one resolution, heads and steps; with edits, those of the edited attention."""
    edit = Edit(mapper=mapper(), windows=windows(3), self_steps=(0, 2))
    given = {**ARGUMENTS, "latents": torch.from_numpy(noise([BASE, REPLACED]))}
    edited_steps(theirs, [BASE, REPLACED], edit, SHOWN, **given)
    maps = torch.stack([torch.stack(layers) for layers in edit.maps[:-1]]).mean((0, 1, 3)).numpy()
    made = pipe(
        [BASE, REPLACED],
        cross_attention_kwargs=CASES["replace"][1],
        heat_map_words=["table", "apple", "a green"],
        **{**given, "latents": noise([BASE, REPLACED])},
    )
    assert made["heat_maps"].keys() == {"table", "apple", "a green"}
    np.testing.assert_allclose(made.heat_maps["apple"][0].ravel(), maps[0, :, 3], atol=1e-5)
    np.testing.assert_allclose(made.heat_maps["a green"][1].ravel(), maps[1, :, 1:3].sum(-1), atol=1e-5)
    assert made.heat_maps["table"].shape == (2, 8, 8)
    assert not made.heat_maps["apple"][1].any(), "the second prompt has no apple"
    assert pipe(BASE, output_type="latent", **ARGUMENTS).heat_maps is None


EDIT = {"edit_type": "replace"}
REWEIGHT = {"edit_type": "reweight", "equalizer_words": ["red"], "equalizer_strengths": [2]}

WRONG = [
    ({"cross_attention_kwargs": "replace"}, "cross_attention_kwargs: got 'replace', expected a dictionary such as"),
    ({"cross_attention_kwargs": {"scale": 0.5}}, "got 'scale'; set the scale of a LoRA with pipe.loras.set_scale(0.5)"),
    ({"cross_attention_kwargs": {**EDIT, "n_cross": 1}}, "got 'n_cross', expected one of edit_type, n_cross_replace"),
    ({"cross_attention_kwargs": {}}, "edit_type: got none, expected one of replace, refine, reweight"),
    ({"prompt": BASE, "cross_attention_kwargs": EDIT}, "prompt: got 1, expected at least two with"),
    ({"cross_attention_kwargs": {**EDIT, "n_self_replace": 2}}, "n_self_replace: got 2, expected a number of at least"),
    ({"cross_attention_kwargs": {**EDIT, "n_self_replace": (1,)}}, "expected a fraction, or a start and an end"),
    ({"cross_attention_kwargs": {**EDIT, "n_self_replace": (0.8, 0.2)}}, "expected the start before the end"),
    ({"cross_attention_kwargs": {**EDIT, "n_cross_replace": {1: 1}}}, "n_cross_replace: got the words [1], expected"),
    ({"cross_attention_kwargs": {**EDIT, "n_cross_replace": {"pear": 1}}}, "got 'pear', which is no word of 'a green"),
    (
        {"cross_attention_kwargs": {**EDIT, "local_blend_words": ["a"]}},
        "local_blend_words: got ['a'], expected 2 entri",
    ),
    (
        {"cross_attention_kwargs": {**EDIT, "local_blend_words": ["appel", "a"]}},
        f"got 'appel', which is no word of the prompt '{BASE}', expected one as it is written there. Did you mean 'app",
    ),
    (
        {"cross_attention_kwargs": {**EDIT, "local_blend_threshold": -1}},
        "local_blend_threshold: got -1, expected a num",
    ),
    ({"cross_attention_kwargs": {"edit_type": "reweight"}}, "got no equalizer_words with the edit type 'reweight'"),
    (
        {"cross_attention_kwargs": {**REWEIGHT, "equalizer_strengths": []}},
        "got 1 equalizer_words and 0 equalizer_stren",
    ),
    ({"cross_attention_kwargs": {**REWEIGHT, "equalizer_strengths": ["x"]}}, "equalizer_strengths of 'red': got 'x'"),
    ({"cross_attention_kwargs": REWEIGHT}, "equalizer_words: got 'red', which is no word of 'a green pineapple on"),
    (
        {"prompt": [BASE, REFINED], "cross_attention_kwargs": EDIT},
        f"got 6 words in '{BASE}' and 10 in '{REFINED}', expected as many with the edit type 'replace'; use 'refine'",
    ),
    (
        {"cross_attention_kwargs": EDIT, "prompt_weighting": True},
        "prompt_weighting: got one with cross_attention_kwargs",
    ),
    (
        {"heat_map_words": "red", "long_prompts": True},
        "long_prompts: got one with heat_map_words, which needs the words",
    ),
    ({"heat_map_words": []}, "heat_map_words: got [], expected a word of the prompts, or several"),
    (
        {"heat_map_words": "pear"},
        "heat_map_words: got 'pear', which is no word of the prompt 'a red apple on the table'",
    ),
    (
        {"prompt": "red " * 80, "heat_map_words": "red"},
        "prompt: got 80 tokens, expected at most 75 with heat_map_words",
    ),
]


def test_wrong_arguments_are_refused_by_name(pipe):
    for given, message in WRONG:
        with pytest.raises(InputError) as refused:
            pipe.start(**{"prompt": [BASE, REPLACED], **ARGUMENTS, **given})
        assert message in str(refused.value), given


def test_other_bundles_are_refused(tiny):
    for given in ({"cross_attention_kwargs": EDIT}, {"heat_map_words": "red"}):
        with pytest.raises(
            InputError, match=r"but the denoiser of this bundle takes no edits of its attention; export"
        ):
            tiny.start([BASE, REPLACED], **given)


def test_instructions_are_refused(pipe):
    """Three rows an image, in another order."""
    prompts = CLIPPromptInputs(prompt=[BASE, REPLACED])
    inputs = AttentionInputs(cross_attention_kwargs=EDIT)
    with pytest.raises(InputError, match=r"cross_attention_kwargs: InstructPix2Pix has no prompts to compare; leave"):
        check_attention(inputs, prompts, pipe.denoiser, pipe.text_encoders, 1, "instruction")


def test_a_token_across_words_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "ids", lambda _self, text: [7] * len(text))
    with pytest.raises(InputError, match=r"prompt: got 'new york', in which a token of the tokenizer spans several"):
        read_words(tokenizer, "new york", "heat_map_words")
