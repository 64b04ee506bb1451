"""Chroma against diffusers' own pipelines on a tiny random checkpoint, after every step."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from system_pair import compare_system, open_theirs
from tiny_chroma import NAMES, make_chroma

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

CHROMA, TO_IMAGE, INPAINT = NAMES
WIDTH, HEIGHT = 24, 16
NOISE = Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB")
MASK = Image.new("L", (WIDTH, HEIGHT))
MASK.paste(255, (4, 5, 19, 12))
TWO = ["a cat", "a red apple on the table"]
FEW = {"num_inference_steps": 3, "max_sequence_length": 20}
SIZE = {"height": HEIGHT, "width": WIDTH}


@pytest.fixture(scope="module")
def pipelines(exported, system_checkpoint):
    """Target to the pipeline."""
    bundle = exported(system_checkpoint("chroma", make_chroma), target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(system_checkpoint):
    plain = open_theirs(system_checkpoint("chroma", make_chroma), CHROMA)
    made = {name: getattr(diffusers, name).from_pipe(plain) for name in NAMES[1:]}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return {CHROMA: plain, **made}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    guided = {"negative_prompt": ["blue", ""], "guidance_scale": 3.0, "num_images_per_prompt": 2}
    for case in (
        {"prompt": TWO, "height": 40, "width": 16, **guided},
        {"prompt": "a very long snowman " * 9, "guidance_scale": 1.0},
        {"prompt": "a cat"},
        {"prompt": "a cat", "max_sequence_length": 512, "sigmas": [1.0, 0.6]},
    )[: None if target == "onnxruntime" else 2]:
        compare_system(pipelines[target], theirs[CHROMA], **{**SIZE, **FEW, **case})


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_images_are_diffusers(pipelines, theirs, target):
    large = {"prompt": "a cat", "height": 40, "width": 32, "strength": 1.0, "guidance_scale": 1.0}
    for name, mask in ((TO_IMAGE, {}), (INPAINT, {"mask_image": MASK})):
        for case in ({"prompt": TWO, "negative_prompt": ["blue", ""], "num_images_per_prompt": 2}, large):
            size = case.get("width", WIDTH), case.get("height", HEIGHT)
            images = {role: image.resize(size) for role, image in {"image": NOISE, **mask}.items()}
            arguments = {**SIZE, **FEW, **images, **case}
            compare_system(pipelines[target], theirs[name], watch=False, **arguments)


def test_embeddings_with_masks(pipelines, theirs):
    reference = theirs[CHROMA]
    prompt, _, mask, negative, _, hidden = reference.encode_prompt("a cat", "a blue dog", max_sequence_length=9)
    tensors = {
        "prompt_embeds": prompt, "prompt_attention_mask": mask,
        "negative_prompt_embeds": negative, "negative_prompt_attention_mask": hidden,
    }  # fmt: skip
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    compare_system(
        pipelines["onnxruntime"], reference, **SIZE, num_inference_steps=2,
        ours_only={name: tensor.numpy() for name, tensor in tensors.items()}, theirs_only=tensors,
    )  # fmt: skip


def test_a_callback_sees_and_changes_what_diffusers_does(pipelines, theirs):
    def halve(_pipeline, index, _timestep, tensors):
        assert set(tensors) == {"latents", "prompt_embeds"}
        return {"prompt_embeds": tensors["prompt_embeds"] * (0.5 if index == 0 else 1.0)}

    arguments = {
        **SIZE, **FEW, "output_type": "latent", "guidance_scale": 1.0,
        "callback_on_step_end": halve, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }  # fmt: skip
    ours = pipelines["onnxruntime"]
    given = ours("a cat", seed=0, **arguments).images
    expected = theirs[CHROMA]("a cat", generator=torch.Generator().manual_seed(0), **arguments).images
    np.testing.assert_allclose(ours.pack(given), expected.numpy(), atol=1e-4)


def test_defaults_are_diffusers(pipelines):
    ours = pipelines["onnxruntime"]
    for name, task in zip(NAMES, ("text_to_image", "image_to_image", "inpainting"), strict=True):
        defaults = {"max_sequence_length": 512, **ours.family.defaults[task]}
        parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
        assert {argument: parameters[argument].default for argument in defaults} == defaults, name
    assert ours.default_size == (256, 256)


def test_wrong_arguments_are_refused(pipelines):
    ours = pipelines["onnxruntime"]
    embeds, mask = np.zeros((1, 9, 32), np.float32), np.ones((1, 9), np.float32)
    for arguments, words in (
        (
            {"prompt": "a cat", "max_sequence_length": 513},
            "max_sequence_length: got 513, expected a whole number of at",
        ),
        ({"prompt": "a cat", "prompt_attention_mask": mask}, "prompt_attention_mask: got one without prompt_embeds"),
        ({"prompt_embeds": embeds}, r"prompt_attention_mask: got none with prompt_embeds, expected one \(1, 9\)"),
        ({"prompt": "a cat", "true_cfg_scale": 3.0}, "true_cfg_scale: "),
        ({"prompt": "a cat", "width": 22}, "width: got 22, expected a multiple of 4"),
    ):
        with pytest.raises(InputError, match=words):
            ours(**{**SIZE, **arguments})
