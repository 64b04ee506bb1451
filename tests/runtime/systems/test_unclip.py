"""unCLIP in three stages, and its variations of images, against diffusers after every step of every stage."""

import inspect
import json
import shutil
from dataclasses import fields

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from system_pair import compare_system
from unclip_checkpoints import UNCLIP_CHECKPOINTS, WIDTH

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.cli.schedulers import command as schedulers
from diffoundry.runtime.errors import ConfigError, InputError, UnknownArgumentError
from diffoundry.runtime.pipelines.systems.unclip_inputs import UnCLIPImageInputs, UnCLIPInputs

pytestmark = pytest.mark.slow

TEXT, VARIATION = "UnCLIPPipeline", "UnCLIPImageVariationPipeline"


@pytest.fixture(scope="module")
def checkpoint(system_checkpoint):
    """The tiny checkpoint of a class."""
    return lambda name: system_checkpoint(name, UNCLIP_CHECKPOINTS[name])


@pytest.fixture(scope="module")
def pair(checkpoint, exported):
    """Our pipeline and diffusers', by the class."""

    def open_both(name, target="onnxruntime"):
        folder = checkpoint(name)
        bundle = exported(folder, target="onnxruntime,openvino" if name == TEXT else "onnxruntime")
        return load(bundle, target=target), reference_pipeline(open_checkpoint(str(folder)))

    return open_both


STEPS = {"decoder_num_inference_steps": 3, "super_res_num_inference_steps": 2}
PRIOR_STEPS = {**STEPS, "prior_num_inference_steps": 3}


def picture(width, height, seed=0):
    colours = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)


def noise(*shape):
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


TEXT_CASES = {
    "one prompt": {"prompt": "a red apple"},
    "a batch": {
        "prompt": ["a red apple on the table " * 20, ""],
        "num_images_per_prompt": 2,
        "decoder_guidance_scale": 2.0,
    },
    "no guidance": {"prompt": ["a", "b"], "prior_guidance_scale": 1.0, "decoder_guidance_scale": 0.5},
    "guidance of the prior alone": {"prompt": "a", "decoder_guidance_scale": 1.0},
    "guidance of the decoder alone": {"prompt": "a", "prior_guidance_scale": 0.0, "decoder_guidance_scale": 3.0},
}


def test_every_step_of_a_prompt_is_diffusers(pair):
    for target in ("onnxruntime", "openvino"):
        ours, theirs = pair(TEXT, target)
        for case, arguments in TEXT_CASES.items() if target == "onnxruntime" else list(TEXT_CASES.items())[:1]:
            images = compare_system(ours, theirs, **{**PRIOR_STEPS, **arguments})
            assert images.shape[1:] == (21, 21, 3), case
            assert images.std() > 0.05, case


def test_encoded_prompts_and_own_noise(pair):
    ours, theirs = pair(TEXT)
    ids = theirs.tokenizer(["a cat", "two"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        output = theirs.text_encoder(ids.input_ids)
    own = {
        "prior_latents": noise(2, WIDTH), "decoder_latents": noise(2, 3, 7, 7), "super_res_latents": noise(2, 3, 21, 21)
    }  # fmt: skip
    compare_system(
        ours,
        theirs,
        ours_only={
            "text_model_output": (output.text_embeds.numpy(), output.last_hidden_state.numpy()),
            "text_attention_mask": ids.attention_mask.numpy(),
            **own,
        },
        theirs_only={
            "text_model_output": (output.text_embeds, output.last_hidden_state),
            "text_attention_mask": ids.attention_mask.bool(),
            **{name: torch.from_numpy(array) for name, array in own.items()},
        },
        **PRIOR_STEPS,
    )


IMAGE_CASES = {
    "one image": {"image": picture(40, 31), "decoder_guidance_scale": 3.0},
    "a batch": {
        "image": [picture(32, 50), picture(64, 32, 1)],
        "num_images_per_prompt": 2,
        "decoder_guidance_scale": 2.0,
    },
    "no guidance": {"image": picture(32, 32), "decoder_guidance_scale": 1.0},
}


def test_every_step_of_a_variation_is_diffusers(pair):
    ours, theirs = pair(VARIATION)
    for case, arguments in IMAGE_CASES.items():
        images = compare_system(ours, theirs, **{**STEPS, **arguments})
        assert images.std() > 0.05, case
    embeddings = noise(2, WIDTH)
    compare_system(
        ours,
        theirs,
        ours_only={"image_embeddings": embeddings},
        theirs_only={"image_embeddings": torch.from_numpy(embeddings)},
        **{**STEPS, "decoder_guidance_scale": 3.0},
    )


def test_defaults_are_diffusers():
    for name, kind in ((TEXT, UnCLIPInputs), (VARIATION, UnCLIPImageInputs)):
        theirs = inspect.signature(getattr(diffusers, name).__call__).parameters
        own = {field.name: field.default for field in fields(kind)}
        assert own == {key: theirs[key].default for key in own}


def test_a_run_names_its_stages(pair):
    ours, _ = pair(TEXT)
    run = ours.start(["a", "two words"], seed=[1, 2], output_type="np", **PRIOR_STEPS)
    steps = list(run)
    assert [step.stage for step in steps] == ["prior"] * 3 + ["decoder"] * 3 + ["super_res"] * 2
    assert [step.index for step in steps if step.ends_stage] == [2, 5, 7]
    assert steps[0].latents.shape == (2, WIDTH)
    alone = ours("two words", seed=2, output_type="np", **PRIOR_STEPS).images
    np.testing.assert_allclose(run.finish().images[1], alone[0], atol=1e-4)
    assert run.truncated == ("", "")
    assert ours.default_size == (21, 21)
    again = ours.start("a", seed=0, **PRIOR_STEPS)
    next(iter(again))
    with pytest.raises(InputError, match="preview: got step 1 of 8, expected a step of the stage 'super_res'"):
        again.preview()


ERRORS = {
    "no prompt": ({"prompt": None}, "prompt and text_model_output: got neither, expected one of them"),
    "both": (
        {"text_model_output": (noise(1, WIDTH), noise(1, 77, WIDTH)), "text_attention_mask": np.ones((1, 77))},
        "prompt and text_model_output: got both",
    ),
    "a mask alone": ({"text_attention_mask": np.ones((1, 77))}, "got text_attention_mask alone, expected both"),
    "encoded prompts alone": (
        {"prompt": None, "text_model_output": (noise(1, WIDTH), noise(1, 77, WIDTH))},
        "got text_model_output alone, expected both",
    ),
    "other encoded prompts": (
        {"prompt": None, "text_model_output": (noise(1, WIDTH), 3), "text_attention_mask": np.ones((1, 77))},
        "text_model_output and text_attention_mask: got other values, expected NumPy arrays",
    ),
    "encoded prompts that do not fit": (
        {
            "prompt": None,
            "text_model_output": (noise(1, WIDTH), noise(2, 77, WIDTH)),
            "text_attention_mask": np.ones((1, 77)),
        },
        r"got shapes \(1, 32\), \(2, 77, 32\) and \(1, 77\), expected as many prompts in each",
    ),
    "one step": ({"prior_num_inference_steps": 1}, "prior_num_inference_steps: got 1, expected a whole number of at"),
    "steps of no number": ({"super_res_num_inference_steps": "7"}, "super_res_num_inference_steps: got '7', expected"),
    "more steps than trained": ({"decoder_num_inference_steps": 6}, "num_inference_steps is 6, expected"),
    "guidance": ({"decoder_guidance_scale": -1.0}, "decoder_guidance_scale: got -1.0, expected a number of at least 0"),
    "guidance of the prior": ({"prior_guidance_scale": float("nan")}, "prior_guidance_scale: got nan, expected"),
    "no image": ({"num_images_per_prompt": 0}, "num_images_per_prompt: got 0, expected"),
    "latents": (
        {"decoder_latents": noise(1, 3, 9, 9)},
        r"decoder_latents: got shape \(1, 3, 9, 9\), expected \(1, 3, 7",
    ),
    "an image": ({"image": picture(8, 8)}, "image"),
    "a negative prompt": ({"negative_prompt": "b"}, "negative_prompt"),
    "a size": ({"height": 32}, "height"),
    "another scheduler": ({"scheduler": "euler"}, "scheduler: got EulerDiscreteScheduler, expected UnCLIPScheduler"),
}

IMAGE_ERRORS = {
    "a prompt": ({"prompt": "a cat", "image": picture(8, 8)}, "prompt: got 'a cat', expected none: variations of an"),
    "no image": ({}, "image and image_embeddings: got neither, expected one of them"),
    "both": ({"image": picture(8, 8), "image_embeddings": noise(1, WIDTH)}, "image and image_embeddings: got both"),
    "embeddings": ({"image_embeddings": noise(WIDTH)}, r"image_embeddings: got shape \(32,\), expected \(images"),
    "another width": (
        {"image_embeddings": noise(1, 3)}, "image_embeddings: got 3 numbers for an image, expected 32, as the",
    ),
    "steps": ({"image": picture(8, 8), "super_res_num_inference_steps": 999}, "super_res_num_inference_steps is 999"),
    "a text": ({"image": "cat.png"}, "image: got"),
    "prior": ({"image": picture(8, 8), "prior_guidance_scale": 2.0}, "prior_guidance_scale"),
}  # fmt: skip


def test_wrong_arguments_are_refused(pair):
    for name, errors, usual in ((TEXT, ERRORS, {"prompt": "a"}), (VARIATION, IMAGE_ERRORS, {})):
        ours, _ = pair(name)
        for arguments, words in errors.values():
            with pytest.raises((InputError, UnknownArgumentError), match=words):
                ours(**{**(PRIOR_STEPS if name == TEXT else STEPS), **usual, **arguments})


def test_the_command_line(pair, tmp_path, capsys):
    """`generate` names the options of the stages; `schedulers` lists the only one that runs."""
    bundle = str(pair(TEXT)[0].session.bundle.root)
    stages = ["--prior-steps", "3", "--decoder-steps", "3", "--super-res-steps", "2"]
    out = tmp_path / "a.png"
    generate.main([bundle, "a", "--seed", "0", *stages, "-o", str(out)], standalone_mode=False)
    with Image.open(out) as image:
        assert image.size == (21, 21)
    for options, words in (
        (["--steps", "3"], "--steps: no such argument of this pipeline. Did you mean --prior-steps"),
        (["--decoder-steps", "1"], "--decoder-steps: got 1, expected a whole number of at least 2"),
    ):
        with pytest.raises(InputError, match=words):
            generate.main([bundle, "a", *options], standalone_mode=False)
    varied = str(pair(VARIATION)[0].session.bundle.root)
    generate.main([varied, "--image", str(out), *stages[2:], "-o", str(tmp_path / "b.png")], standalone_mode=False)
    assert (tmp_path / "b.png").is_file()
    capsys.readouterr()
    schedulers.main([bundle, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == {"default": "UnCLIPScheduler", "schedulers": {"UnCLIPScheduler": []}}
    schedulers.main([bundle], standalone_mode=False)
    assert "dpmpp_2m_karras" not in capsys.readouterr().out


def test_sizes_that_do_not_divide_are_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint(TEXT), tmp_path / "own")
    path = folder / "super_res_first/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": 22}))
    with pytest.raises(ConfigError, match="super_res_first/config.json: field 'sample_size': got 22, expected a mul"):
        open_checkpoint(str(folder))
