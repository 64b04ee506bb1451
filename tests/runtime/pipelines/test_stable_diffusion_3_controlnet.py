"""ControlNets of Stable Diffusion 3 against diffusers' own pipelines, after every step."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.controlnets import SD3MultiControlNetModel
from idle_calls import assert_idle_inputs_are_zeros
from PIL import Image
from pipeline_harness import compare_each, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

EDGES = Image.effect_noise((64, 64), 90).convert("RGB")
MASK = Image.new("L", (64, 64))
MASK.paste(255, (16, 24, 64, 48))
TWO = ["a red apple", "a cat face"]
TARGETS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def pair(controlled_bundle, tiny_sd_checkpoint, tiny_controlnet):
    """Factory: our pipelines of both targets, and diffusers', with some ControlNets."""

    def make(*nets):
        bundle = controlled_bundle("sd3-without-t5", nets, target="onnxruntime,openvino")
        ours = {target: load(bundle, target=target) for target in TARGETS}
        folders = [tiny_controlnet("sd3-without-t5", net) for net in nets]
        models = [diffusers.SD3ControlNetModel.from_pretrained(folder) for folder in folders]
        kind = "ControlNetInpainting" if nets == ("masked",) else "ControlNet"
        controlnet = models[0] if len(models) == 1 else SD3MultiControlNetModel(models)
        base = tiny_sd_checkpoint("sd3-without-t5")
        lacking = dict.fromkeys(("text_encoder_3", "tokenizer_3", "feature_extractor", "image_encoder"))
        return ours, diffusers_pipeline(base, f"StableDiffusion3{kind}Pipeline", controlnet=controlnet, **lacking)

    return make


def compare_with_seed(ours, theirs, prompt, **arguments):
    """diffusers draws latents of control images from torch's global generator; a bundle from one with the seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return compare_each(ours, theirs, prompt, num_inference_steps=3, **arguments)


def test_one(pair):
    ours, theirs = pair("pooled")
    compare_with_seed(ours, theirs, "a red apple", control_image=EDGES, negative_prompt="blue")
    sizes = {"control_image": EDGES.resize((80, 112)), "height": 112, "width": 80}
    compare_with_seed(ours, theirs, TWO, **sizes, seed=[1, 2], guidance_scale=1.0, controlnet_conditioning_scale=0.5)
    with pytest.raises(InputError, match="control_mask: got one, but no mask is what the ControlNets of this"):
        ours["onnxruntime"]("a red apple", control_image=EDGES, control_mask=MASK)
    part = {"control_guidance_start": 0.3, "control_guidance_end": 0.7, "num_images_per_prompt": 2}
    compare_with_seed(ours, theirs, TWO, control_image=[EDGES, EDGES.rotate(90)], **part)
    for pipe in ours.values():
        assert_idle_inputs_are_zeros(pipe, {"control_image": EDGES}, height=64, width=64)


@pytest.mark.slow
def test_several(pair):
    ours, theirs = pair("first", "second")
    images, scales = [EDGES, EDGES.rotate(90)], [0.5, 0.9]
    compare_with_seed(ours, theirs, TWO, control_image=images, controlnet_conditioning_scale=scales)


@pytest.mark.slow
def test_single_attention_with_positions_of_the_transformer(pair):
    """As those of Stability AI for 3.5 Large: no text is read."""
    ours, theirs = pair("stability")
    compare_with_seed(ours, theirs, "a red apple", control_image=EDGES, negative_prompt="blue")
    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 80, 48)).astype(np.float32))
    compare_with_seed(ours, theirs, "a red apple", control_image=pixels, height=80, width=48)


def test_inpainting(pair):
    ours, theirs = pair("masked")
    compare_with_seed(ours, theirs, "a red apple", control_image=EDGES, control_mask=MASK, negative_prompt="blue")
    several = {"control_image": [EDGES, EDGES.rotate(90)], "control_mask": [MASK, MASK.rotate(90)]}
    compare_with_seed(ours, theirs, TWO, **several, num_images_per_prompt=2, guidance_scale=1.0)
    sizes = {"control_image": EDGES.resize((80, 112)), "control_mask": MASK.resize((80, 112))}
    compare_with_seed(ours, theirs, "a red apple", **sizes, height=112, width=80)
    one = ours["onnxruntime"]
    for arguments, message in (
        (
            {},
            "control_mask: got none, expected the mask that the ControlNets of this bundle take; pass it",
        ),
        (
            {"control_mask": MASK.resize((80, 64))},
            "control_mask: got 80 x 64 pixels, expected those of control",
        ),
        ({"control_mask": [MASK] * 3}, "control_mask: got 3 for 1 images, expected one, or one for each"),
        ({"control_mask": MASK, "guess_mode": True}, "guess_mode: the ControlNets of this bundle have none; leave it"),
        ({"control_mask": MASK, "image": EDGES}, "control_image: image to image has no ControlNets; leave it out"),
    ):
        with pytest.raises(InputError, match=message):
            one("a red apple", control_image=EDGES, **arguments)
