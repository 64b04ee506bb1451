"""ControlNets of Qwen-Image against diffusers' own pipeline on tiny random checkpoints, after every step."""

import inspect
import json

import diffusers
import numpy as np
import pytest
from idle_calls import assert_idle_inputs_are_zeros
from PIL import Image
from system_pair import compare_system
from tiny_qwen_image import make_qwen_image, make_qwen_image_controlnet

from diffoundry.exporter.components.qwen_image_controlnet import control_residuals, qwen_image_controlnet
from diffoundry.runtime import load
from diffoundry.runtime.errors import ConfigError, InputError

pytestmark = pytest.mark.slow

NAME, MASKED = "QwenImageControlNetPipeline", "QwenImageControlNetInpaintPipeline"
SIZE = {"height": 16, "width": 24}
EDGES = Image.effect_noise((24, 16), 30).convert("RGB")
FEW = {"num_inference_steps": 3, "watch": False}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("qwen-image-deep", lambda folder: make_qwen_image(folder, num_layers=3))


@pytest.fixture(scope="module")
def net(system_checkpoint):
    return system_checkpoint("qwen-image-net", lambda folder: make_qwen_image_controlnet(folder, 2))


@pytest.fixture(scope="module")
def pipelines(exported, folder, net):
    """Target to the pipeline; of three blocks two get the first residual."""
    bundle = exported(folder, target="onnxruntime,openvino", controlnets=(str(net),))
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(folder, net):
    model = diffusers.QwenImageControlNetModel.from_pretrained(net)
    pipeline = diffusers.QwenImageControlNetPipeline.from_pretrained(folder, controlnet=model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    ours = pipelines[target]
    assert ours.session.bundle.pipeline_class == NAME
    two = {"prompt": ["a cat", "a red apple on the table"], "negative_prompt": ["blue", "a horse on the moon"]}
    compare_system(
        ours, theirs, **two, control_image=[EDGES, EDGES.rotate(180)], controlnet_conditioning_scale=0.7,
        control_guidance_end=0.7, **FEW, **SIZE,
    )  # fmt: skip
    assert_idle_inputs_are_zeros(ours, {"control_image": EDGES}, **SIZE)
    if target == "onnxruntime":
        large = {"control_image": EDGES.resize((32, 40)), "height": 40, "width": 32, "num_images_per_prompt": 2}
        compare_system(ours, theirs, prompt="a cat", **FEW, **large, control_guidance_start=0.3)


def test_defaults_and_errors(pipelines):
    ours = pipelines["onnxruntime"]
    parameters = inspect.signature(diffusers.QwenImageControlNetPipeline.__call__).parameters
    for argument, value in ours.family.controlnet_defaults["text_to_image"].items():
        assert parameters[argument].default == value
    with pytest.raises(InputError, match="control_image"):
        ours.start("a cat", control_image=EDGES, image=EDGES, **SIZE)


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_every_step_of_inpainting_is_diffusers(exported, system_checkpoint, folder, target):
    """With a mask; diffusers draws the latents of the image from torch's global generator."""
    net = system_checkpoint("qwen-image-mask", lambda one: make_qwen_image_controlnet(one, 2, masked=True))
    ours = load(exported(folder, target=target, controlnets=(str(net),)), target=target)
    assert ours.session.bundle.pipeline_class == MASKED
    model = diffusers.QwenImageControlNetModel.from_pretrained(net)
    theirs = diffusers.QwenImageControlNetInpaintPipeline.from_pretrained(folder, controlnet=model)
    theirs.set_progress_bar_config(disable=True)
    mask = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8))
    two = {"prompt": ["a cat", "a red apple"], "negative_prompt": ["blue", "a horse on the moon"]}
    masks, images = [mask, mask.rotate(180)], [EDGES, EDGES.rotate(180)]
    compare_system(
        ours, theirs, **two, control_image=images, control_mask=masks, control_guidance_end=0.7, **FEW, **SIZE
    )
    if target == "openvino":
        large = {
            "control_image": EDGES.resize((32, 40)),
            "control_mask": mask.resize((32, 40)),
            "height": 40,
            "width": 32,
        }
        compare_system(ours, theirs, prompt="a cat", num_images_per_prompt=2, **FEW, **large)
    parameters = inspect.signature(diffusers.QwenImageControlNetInpaintPipeline.__call__).parameters
    for argument, value in ours.family.controlnet_defaults["text_to_image"].items():
        assert parameters[argument].default == value
    with pytest.raises(InputError, match="control_mask: got none, expected the mask that"):
        ours.start("a cat", control_image=EDGES, **SIZE)


CONFIGS = {
    "extra_condition_channels": (1, "expected 0, or 4 for a mask of 2 x 2 latents"),
    "num_attention_heads": (3, "but the transformer has 2; this ControlNet was made for another kind"),
    "joint_attention_dim": (48, "but the transformer has 32"),
    "in_channels": (64, "but 2 x 2 latents have 16"),
}


def test_configs_that_are_refused(folder, net):
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in ("transformer", "vae")}
    own = json.loads((net / "config.json").read_text())
    describe = qwen_image_controlnet("controlnet", tokens=512).describe
    assert len(describe({**configs, "controlnet": own}).outputs) == 2
    for field, (value, words) in CONFIGS.items():
        with pytest.raises(ConfigError, match=f"controlnet/config.json: field '{field}': got .*{words}"):
            describe({**configs, "controlnet": {**own, field: value}})
    with pytest.raises(ConfigError, match="--controlnet: got 2 ControlNets of Qwen-Image, expected one"):
        control_residuals({**configs, "controlnet": own, "controlnet_1": own})
