"""Qwen-Image-Edit against diffusers' own pipelines on tiny random checkpoints, after every step."""

import inspect
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as qwen_edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_inpaint as qwen_inpaint
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as qwen_plus
from PIL import Image
from system_pair import compare_system
from tiny_qwen_image import make_qwen_image_edit

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.qwen_vl_text import image_positions
from diffoundry.runtime.pipelines.tasks import prompt_editing
from diffoundry.runtime.pipelines.tasks.prompt_editing import area_size

pytestmark = pytest.mark.slow

EDIT, PLUS, INPAINT = (f"QwenImageEdit{form}Pipeline" for form in ("", "Plus", "Inpaint"))
NOISE = Image.effect_noise((300, 200), 90).convert("RGB")
OTHER = Image.effect_noise((90, 120), 60).convert("RGB")
MASK = Image.effect_noise((90, 120), 90)
FEW = {"num_inference_steps": 2, "watch": False}
BOTH = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    return {
        name: system_checkpoint(f"class-{name}", lambda folder, name=name: make_qwen_image_edit(folder, name))
        for name in (EDIT, PLUS)
    }


@pytest.fixture(scope="module")
def pipelines(exported, folders):
    """Class and target to the pipeline."""
    bundles = {name: exported(folder, target=",".join(BOTH)) for name, folder in folders.items()}
    opened = {(name, target): load(bundle, target=target) for name, bundle in bundles.items() for target in BOTH}
    return {**opened, **{(INPAINT, target): opened[EDIT, target] for target in BOTH}}


@pytest.fixture(scope="module")
def theirs(folders):
    opened = {name: reference_pipeline(open_checkpoint(str(folder))) for name, folder in folders.items()}
    return {**opened, INPAINT: diffusers.QwenImageEditInpaintPipeline(**opened[EDIT].components)}


CASES = {
    EDIT: {
        "one": {"prompt": "a cat", "image": OTHER, "negative_prompt": "blue", "height": 64, "width": 128},
        "two": {
            "prompt": ["a cat", "a red apple"], "negative_prompt": ["blue", "a horse on the moon"],
            "image": [NOISE, NOISE.rotate(180)], "height": 128, "width": 64,
        },
        "several results": {"prompt": "a cat", "image": NOISE, "num_images_per_prompt": 2},
    },
    PLUS: {
        "two": {"prompt": "a cat", "image": [NOISE, OTHER], "negative_prompt": "blue", "height": 64, "width": 128},
        "one": {"prompt": "a cat", "image": OTHER, "num_images_per_prompt": 2, "height": 128, "width": 64},
    },
    INPAINT: {
        "one": {"prompt": "a cat", "image": OTHER, "mask_image": MASK, "negative_prompt": "blue"},
        "two": {
            "prompt": ["a cat", "a red apple"], "image": [NOISE, NOISE.rotate(180)], "strength": 1.0,
            "mask_image": MASK.resize((300, 200)), "negative_prompt": ["blue", "a horse on the moon"],
        },
    },
}  # fmt: skip


def follow(pipelines, theirs, name, target, cases):
    for case in cases:
        compare_system(pipelines[name, target], theirs[name], **{**FEW, **CASES[name][case]})


def test_every_step_is_diffusers(pipelines, theirs, monkeypatch):
    """With fewer pixels to see than by default."""
    area, measure = 256 * 256, qwen_edit.calculate_dimensions
    monkeypatch.setattr(prompt_editing, "_AREA", area)
    monkeypatch.setattr(prompt_editing, "_SEEN_AREA", area)
    for module in (qwen_edit, qwen_inpaint):
        monkeypatch.setattr(module, "calculate_dimensions", lambda _area, ratio: measure(area, ratio))
    for name in ("VAE_IMAGE_SIZE", "CONDITION_IMAGE_SIZE"):
        monkeypatch.setattr(qwen_plus, name, area)
    follow(pipelines, theirs, EDIT, "onnxruntime", ["one"])
    follow(pipelines, theirs, PLUS, "onnxruntime", ["two"])
    follow(pipelines, theirs, INPAINT, "onnxruntime", ["one"])
    check_crop(pipelines[INPAINT, "onnxruntime"], theirs[INPAINT])


def check_crop(ours, theirs):
    """Check that a part of an image is generated in full size and put back; the mask has the size of the result."""
    mask = Image.new("L", (224, 288))
    mask.paste(255, (40, 50, 100, 120))
    arguments = {"image": OTHER, "mask_image": mask, "padding_mask_crop": 8, "num_inference_steps": 2, "strength": 1.0}
    with torch.no_grad():
        expected = theirs(prompt="a cat", **arguments, generator=torch.Generator().manual_seed(0)).images[0]
    given = ours("a cat", **arguments, seed=0).images[0]
    assert given.size == expected.size == mask.size
    assert np.abs(np.asarray(given, np.int16) - np.asarray(expected, np.int16)).max() <= 1
    with pytest.raises(InputError, match="mask_image: got 90 x 120 pixels, expected 224 x 288, the size that is gen"):
        ours.start("a cat", **{**arguments, "mask_image": MASK})


@pytest.mark.slow
def test_every_step_of_more_is_diffusers(pipelines, theirs):
    """Several prompts and results, the size of the image, and another engine."""
    for name, cases in CASES.items():
        for target in BOTH:
            follow(pipelines, theirs, name, target, cases)


def test_the_default_size_is_diffusers(pipelines, theirs):
    """That of a square image, although a latent of this VAE covers 16 pixels."""
    for name in (EDIT, PLUS):
        ours = pipelines[name, "onnxruntime"]
        assert ours.vae.scale_factor == theirs[name].vae_scale_factor == 16
        assert ours.default_size == qwen_edit.calculate_dimensions(1024 * 1024, 1)[:2]


def test_windows_and_places_are_those_of_transformers(pipelines, theirs):
    """Of images with whole windows and with parts of them, between the tokens of a text."""
    ours, reference = pipelines[PLUS, "onnxruntime"].family._vision, theirs[PLUS]
    model, images, shown = reference.text_encoder.model, [NOISE, OTHER, NOISE.resize((112, 112))], []
    for image in images:
        seen = reference.processor.image_processor(images=image, return_tensors="pt")
        with torch.no_grad():
            expected = model.visual(seen["pixel_values"], grid_thw=seen["image_grid_thw"]).pooler_output
        shown.append(ours(image))
        np.testing.assert_allclose(shown[-1].embeds, expected, atol=1e-6)
    grids = torch.tensor([[1, 2 * one.rows, 2 * one.columns] for one in shown])
    parts = [
        np.concatenate([np.zeros(count), np.ones(len(one.embeds))]) for count, one in zip((5, 1, 3), shown, strict=True)
    ]
    mask = np.concatenate([*parts, np.zeros(4)]).astype(bool)
    kinds = torch.from_numpy(mask[None].astype(np.int32))
    expected, _ = model.get_rope_index(kinds.long(), kinds, image_grid_thw=grids)
    np.testing.assert_array_equal(image_positions(mask, shown), expected[:, 0].T)


def test_sizes_are_diffusers():
    for size in ((300, 200), (90, 120), (1024, 1024), (33, 900)):
        image = Image.new("RGB", size)
        width, height = qwen_edit.calculate_dimensions(1024 * 1024, size[0] / size[1])[:2]
        assert area_size(1024 * 1024, image) == (height, width)


def test_defaults_are_diffusers(pipelines):
    tasks = {EDIT: "prompt_editing", PLUS: "several_image_editing", INPAINT: "prompt_edit_inpainting"}
    for name, task in tasks.items():
        ours = pipelines[name, "onnxruntime"]
        assert name == INPAINT or ours.default_task.name == task
        parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
        for argument, value in ours.family.defaults[task].items():
            assert parameters[argument].default == value


ERRORS = {
    "a mask of another size": (
        {"image": NOISE, "mask_image": MASK, "height": None, "width": None},
        "mask_image: got 90 x 120 pixels, expected 300 x 200, the size of the image",
    ),
    "another size": (
        {"image": NOISE, "mask_image": MASK.resize((300, 200))},
        "height: got 64, expected 832, the size to which the image is resized; leave it out",
    ),
    "no image": ({}, "image: got none, expected image: editing an image is what this checkpoint does"),
    "no list": ({"image": []}, "image: got an empty list, expected at least one image"),
    "an array": (
        {"image": np.zeros((64, 64, 3), np.float32)},
        "image: got ndarray, expected a PIL image, or a list of",
    ),
    "three": ({"image": [NOISE] * 3}, "image: got 3 for 1 prompts, expected one, or one for each"),
    "a token": (
        {"image": NOISE, "prompt": "a <|image_pad|>"},
        r"prompt: got a text with <\|image_pad\|>, expected one",
    ),
    "narrow": (
        {"image": [Image.new("RGB", (2, 900))]},
        "image: got 2 x 900 pixels, expected a long side of at most 200",
    ),
}


def test_sizes_of_the_bundle_without_that_of_an_image_are_refused(pipelines, monkeypatch):
    """Whatever is generated, an image is seen in about 1024 x 1024 pixels."""
    for name in (EDIT, PLUS):
        ours = pipelines[name, "onnxruntime"]
        monkeypatch.setattr(ours.vae, "recipe", SimpleNamespace(dims={}, buckets=((64, 64),)))
        words = "image: it is seen with 1248x832 pixels, whatever is generated, .*expected one of 64x64"
        with pytest.raises(InputError, match=f"{words}.*; export it without --buckets, --height and --width"):
            ours.start("a cat", image=NOISE, height=64, width=64)


def test_wrong_arguments_are_refused(pipelines, monkeypatch):
    ours = pipelines[EDIT, "onnxruntime"]
    for arguments, words in ERRORS.values():
        with pytest.raises(InputError, match=words):
            ours.start(**{"prompt": "a cat", "height": 64, "width": 64, **arguments})
    few = {"image_encoder": [SimpleNamespace(name="window_mask", shape=(1, 64))]}
    declared = ours.session.declared_inputs
    monkeypatch.setattr(ours.session, "declared_inputs", lambda name: few.get(name) or declared(name))
    with pytest.raises(
        InputError, match=r"image: got \d+ windows of patches, expected at most 1: the engine of 'image_e"
    ):
        ours.start("a cat", image=NOISE, height=64, width=64)
