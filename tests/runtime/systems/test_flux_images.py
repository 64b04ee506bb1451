"""FLUX.1 from images against diffusers' own pipelines on tiny random checkpoints, after every step."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from system_pair import compare_system, open_theirs
from tiny_flux import DEV, LATENTS, make_flux

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

TO_IMAGE, INPAINT, FILL = "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxFillPipeline"
KONTEXT, CONTROL = "FluxKontextPipeline", "FluxControlPipeline"
EDIT = "FluxKontextInpaintPipeline"
CONTROL_IMAGE, CONTROL_INPAINT = "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline"
OWN = (FILL, KONTEXT, CONTROL)
FORMS = {CONTROL_IMAGE: CONTROL, CONTROL_INPAINT: CONTROL, EDIT: KONTEXT}
"""Classes with the networks of another."""

WIDTH, HEIGHT = 24, 16
NOISE = Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB")
MASK = Image.new("L", (WIDTH, HEIGHT))
MASK.paste(255, (4, 5, 19, 12))
TWO = ["a red apple", "a cat face"]
GUIDED = {"negative_prompt": ["blue", ""], "true_cfg_scale": 3.0}
FEW = {"num_inference_steps": 3, "max_sequence_length": 9}
SIZE = {"height": HEIGHT, "width": WIDTH}


@pytest.fixture(scope="module")
def folders(system_checkpoint):
    return {
        FILL: system_checkpoint(
            "flux-fill", lambda folder: make_flux(folder, FILL, in_channels=48, out_channels=4 * LATENTS, **DEV)
        ),
        CONTROL: system_checkpoint(
            "flux-control", lambda folder: make_flux(folder, CONTROL, in_channels=32, out_channels=4 * LATENTS, **DEV)
        ),
        KONTEXT: system_checkpoint("flux-kontext", lambda folder: make_flux(folder, KONTEXT, **DEV)),
        "dev": system_checkpoint("flux-dev", lambda folder: make_flux(folder, **DEV)),
    }


@pytest.fixture(scope="module")
def pipelines(exported, folders):
    """Class and target to the pipeline, opened when asked for; the plain checkpoint is exported for other tests too."""

    class Pipelines(dict):
        def __missing__(self, key):
            name, target = key
            self[key] = load(exported(folders[name], target="onnxruntime,openvino"), target=target)
            return self[key]

    return Pipelines()


@pytest.fixture(scope="module")
def theirs(folders):
    plain = open_theirs(folders["dev"], "FluxPipeline")
    made = {name: getattr(diffusers, name).from_pipe(plain) for name in (TO_IMAGE, INPAINT)}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    own = {name: open_theirs(folders[name], name) for name in OWN}
    forms = {name: getattr(diffusers, name)(**own[base].components) for name, base in FORMS.items()}
    for pipeline in forms.values():
        pipeline.set_progress_bar_config(disable=True)
    return {**made, **own, **forms}


def find(pipelines, name, target="onnxruntime"):
    """Return our pipeline for a class of diffusers."""
    name = FORMS.get(name, name)
    return pipelines[name if name in OWN else "dev", target]


def follow(pipelines, theirs, name, targets=("onnxruntime",), **arguments):
    """Compare with one of diffusers' classes; its callback sees latents after the kept part was put back."""
    for target in targets:
        ours = find(pipelines, name, target)
        compare_system(ours, theirs[name], watch=False, **{**FEW, **SIZE, **arguments})


BOTH = ("onnxruntime", "openvino")


def test_image_to_image(pipelines, theirs):
    follow(pipelines, theirs, TO_IMAGE, BOTH, prompt=TWO, image=NOISE, num_images_per_prompt=2, **GUIDED)
    large = {"image": NOISE.resize((32, 40)), "height": 40, "width": 32}
    follow(pipelines, theirs, TO_IMAGE, prompt="a cat", **large, strength=1.0, guidance_scale=1.0)
    latents = np.random.default_rng(0).standard_normal((1, LATENTS, HEIGHT // 2, WIDTH // 2)).astype(np.float32)
    ours, reference = pipelines["dev", "onnxruntime"], theirs[TO_IMAGE]
    compare_system(
        ours, reference, prompt="a cat", watch=False, ours_only={"image": latents}, **FEW,
        theirs_only={"image": torch.from_numpy(latents), **SIZE},
    )  # fmt: skip


def test_inpainting(pipelines, theirs):
    images = {"image": NOISE, "mask_image": MASK}
    follow(pipelines, theirs, INPAINT, BOTH, prompt=TWO, num_images_per_prompt=2, **images, **GUIDED)
    follow(pipelines, theirs, INPAINT, prompt="a cat", **images, height=40, width=32, strength=1.0)
    several = {"image": [NOISE, NOISE.rotate(180)], "mask_image": [MASK, MASK.rotate(180)]}
    follow(pipelines, theirs, INPAINT, prompt=TWO, **several, strength=0.4)


@pytest.mark.slow
def test_filling(pipelines, theirs):
    images = {"image": NOISE, "mask_image": MASK}
    follow(pipelines, theirs, FILL, BOTH, prompt=TWO, num_images_per_prompt=2, **images)
    follow(pipelines, theirs, FILL, prompt="a cat", **images, strength=0.7, height=40, width=32)
    follow(pipelines, theirs, FILL, prompt="a cat", image=NOISE, mask_image=Image.new("L", NOISE.size, 255))


@pytest.mark.slow
def test_control_by_channels(pipelines, theirs):
    follow(pipelines, theirs, CONTROL, BOTH, prompt=TWO, control_image=NOISE, num_images_per_prompt=2)
    two = [NOISE.resize((50, 40)), NOISE.resize((50, 40)).rotate(180)]
    follow(pipelines, theirs, CONTROL, prompt=TWO, control_image=two, height=32, width=20, num_images_per_prompt=2)
    ours = pipelines[CONTROL, "onnxruntime"]
    for arguments, words in (
        ({}, "control_image: got none, expected control_image: control by an image is what this checkpoint does"),
        ({"control_image": NOISE, "controlnet_conditioning_scale": 0.5},
         "controlnet_conditioning_scale: control by an image has no ControlNets; leave it out"),
        ({"control_image": [NOISE] * 3}, "control_image: got 3 for 1 images, expected one, or a number that"),
        ({"control_image": object()}, "control_image: got object, expected a PIL image or an array"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            ours("a cat", **FEW, **SIZE, **arguments)


@pytest.mark.slow
def test_control_by_channels_from_images(pipelines, theirs):
    images = {"image": NOISE, "control_image": NOISE.rotate(180)}
    follow(pipelines, theirs, CONTROL_IMAGE, BOTH, prompt=TWO, **images, num_images_per_prompt=2)
    large = {"image": NOISE.resize((32, 40)), "height": 40, "width": 32}
    follow(pipelines, theirs, CONTROL_IMAGE, prompt="a cat", **{**images, **large}, strength=1.0)
    images["mask_image"] = MASK
    follow(pipelines, theirs, CONTROL_INPAINT, BOTH, prompt=TWO, **images, num_images_per_prompt=2)
    follow(pipelines, theirs, CONTROL_INPAINT, prompt="a cat", **images, height=40, width=32, strength=1.0)
    with pytest.raises(InputError, match="padding_mask_crop: inpainting with a control image has none; leave it out"):
        pipelines[CONTROL, "onnxruntime"]("a cat", **images, **FEW, **SIZE, padding_mask_crop=2)


@pytest.mark.slow
def test_editing_a_part(pipelines, theirs):
    """The image decides the size. Another image that the transformer sees has its own."""
    images, own = {"image": NOISE, "mask_image": MASK}, {"_auto_resize": False}
    follow(pipelines, theirs, EDIT, BOTH, prompt=TWO, **images, **own, **GUIDED, num_images_per_prompt=2)
    large = {"image": NOISE.resize((33, 42)), "mask_image": MASK.resize((33, 42)), "height": 40, "width": 32}
    follow(pipelines, theirs, EDIT, prompt="a cat", **large, **own, image_reference=NOISE.rotate(180), strength=0.7)
    ours = pipelines[KONTEXT, "onnxruntime"]
    for arguments, words in (
        (
            {"height": 16},
            "height: got 16, expected 40, the size to which the image is resized; leave it out, or pass _au",
        ),
        ({"padding_mask_crop": 2}, "padding_mask_crop: editing a part of an image has none; leave it out"),
        ({"image_reference": object()}, "image_reference: got object, expected a PIL image or an array"),
    ):
        with pytest.raises(InputError, match=words):
            ours("a cat", **{**large, **FEW, **own, **arguments})
    with pytest.raises(InputError, match="image_reference: editing an image has no such argument; pass image and mask"):
        ours("a cat", image=NOISE, image_reference=NOISE)


@pytest.mark.slow
def test_an_image_as_a_reference(pipelines, theirs):
    """Its tokens have places of their own. Without one the result is that of the prompt."""
    large = NOISE.resize((39, 26))
    own = {"max_area": WIDTH * HEIGHT, "_auto_resize": False}
    follow(pipelines, theirs, KONTEXT, BOTH, prompt=TWO, image=large, num_images_per_prompt=2, **own, **GUIDED)
    follow(pipelines, theirs, KONTEXT, prompt=TWO, image=[NOISE, NOISE.rotate(180)], height=90, width=30, **own)
    follow(pipelines, theirs, KONTEXT, BOTH, prompt="a cat", max_area=20 * 40)
    latents = np.random.default_rng(0).standard_normal((1, LATENTS, 6, 10)).astype(np.float32)
    compare_system(
        pipelines[KONTEXT, "onnxruntime"], theirs[KONTEXT], prompt="a cat", watch=False, **FEW, **SIZE, **own,
        ours_only={"image": latents}, theirs_only={"image": torch.from_numpy(latents)},
    )  # fmt: skip


@pytest.mark.slow
def test_sizes_of_references_are_diffusers(pipelines, theirs, monkeypatch):
    """The size of the result by its area, and that of the image by the closest of the training."""
    ours, reference = pipelines[KONTEXT, "onnxruntime"], theirs[KONTEXT]
    sizes = []

    def stop(image, *_args, **_options):
        sizes.append(tuple(image.shape[2:]))
        raise InterruptedError

    monkeypatch.setattr(reference.vae, "encode", stop)
    monkeypatch.setattr(type(ours.vae), "mode", lambda _vae, pixels: stop(pixels))
    for width, height in ((64, 64), (64, 40), (33, 90), (300, 100)):
        image = NOISE.resize((width, height))
        for pipeline in (ours, reference):
            with pytest.raises(InterruptedError):
                pipeline(prompt="a cat", image=image, **SIZE, max_area=64, max_sequence_length=9)
    assert sizes[::2] == sizes[1::2]
    assert len(set(sizes)) == 4
    assert ours.start("a cat", mu=0.5).arguments["height"] == 1024


@pytest.mark.slow
def test_defaults_are_diffusers(pipelines):
    for name, task in (
        (TO_IMAGE, "image_to_image"), (INPAINT, "inpainting"), (FILL, "fill"), (KONTEXT, "reference"),
        (CONTROL, "control"), (CONTROL_IMAGE, "control_image_to_image"), (CONTROL_INPAINT, "control_inpainting"),
        (EDIT, "kontext_inpainting"),
    ):  # fmt: skip
        ours = find(pipelines, name)
        kind = next(one for one in ours._tasks if one.name == task)
        defaults = {**ours.family.defaults[task], **({"strength": 1.0} if task == "fill" else {})}
        parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
        assert {argument: parameters[argument].default for argument in defaults} == defaults, name
        assert set(kind.required_args) <= set(parameters)
    assert pipelines[FILL, "onnxruntime"].default_task.name == "fill"


@pytest.mark.slow
def test_wrong_arguments_are_refused(pipelines):
    filling, plain = pipelines[FILL, "onnxruntime"], pipelines["dev", "onnxruntime"]
    for ours, arguments, words in (
        (filling, {}, "image: got none, expected image and mask_image: filling is what this checkpoint does"),
        (filling, {"image": NOISE}, "image: got none|mask_image: got none"),
        (plain, {"image": NOISE, "strength": 0.0}, "strength: got 0.0, expected a number above 0 and at most 1"),
        (plain, {"image": NOISE.resize((22, 16))}, "width: got 22, expected a multiple of 4"),
        (plain, {"image": NOISE, "mask_image": MASK, "masked_image_latents": np.zeros((1, 4, 8, 12), np.float32),
                 **SIZE}, "masked_image_latents: this checkpoint's denoiser does not take them"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            ours("a cat", **FEW, **arguments)
