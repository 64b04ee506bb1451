"""Image to image and inpainting of Stable Diffusion 3 against diffusers' own, after every step."""

import numpy as np
import pytest
from PIL import Image
from pipeline_harness import compare_each, diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

TO_IMAGE, INPAINT = "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"
NOISE = Image.effect_noise((64, 64), 90).convert("RGB")
MASK = Image.new("L", (64, 64))
MASK.paste(255, (16, 24, 64, 48))
TWO = ["a red apple", "a cat face"]


@pytest.fixture(scope="module")
def ours(portable_bundle):
    return {target: load(portable_bundle("sd3"), target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(tiny_sd_checkpoint):
    return {name: opened(tiny_sd_checkpoint("sd3"), name) for name in (TO_IMAGE, INPAINT)}


def opened(folder, name):
    """diffusers' pipeline; that for inpainting forgets the VAE's shift when it decodes: huggingface/diffusers#14671."""
    pipe = diffusers_pipeline(folder, name)
    if name == INPAINT:
        decode, shift = pipe.vae.decode, pipe.vae.config.shift_factor
        assert shift > 0
        pipe.vae.decode = lambda latents, **options: decode(latents + shift, **options)
    return pipe


def test_image_to_image(ours, theirs):
    pair, arguments = (ours, theirs[TO_IMAGE]), {"negative_prompt": "blue", "num_inference_steps": 3}
    compare_each(*pair, "a red apple", image=NOISE, **arguments)  # 0.6 of 3 steps are 2
    sizes = {"image": NOISE.resize((80, 112)), "height": 112, "width": 80}
    compare_each(*pair, "a red apple", **sizes, num_inference_steps=2, strength=1.0, guidance_scale=1.0)
    several = {"image": [NOISE, NOISE.rotate(90)], "seed": [1, 2]}
    compare_each(*pair, TWO, **arguments, **several)
    compare_each(*pair, TWO, **arguments, image=NOISE, num_images_per_prompt=2)
    compare_each(*pair, "a red apple", **arguments, image=np.ones((1, 16, 10, 8), np.float32), height=80)


def test_inpainting(ours, theirs):
    pair, arguments = (ours, theirs[INPAINT]), {"mask_image": MASK, "num_inference_steps": 3}
    compare_each(*pair, "a red apple", image=NOISE, **arguments, negative_prompt="blue")
    sizes = {"image": NOISE, "height": 112, "width": 80}
    compare_each(*pair, "a red apple", **sizes, **arguments, strength=1.0, guidance_scale=1.0)
    several = {"image": [NOISE, NOISE.rotate(90)], "mask_image": [MASK, MASK.rotate(90)], "seed": [1, 2]}
    compare_each(*pair, TWO, num_inference_steps=2, **several, negative_prompt=["blue", ""])
    compare_each(*pair, "a cat", image=NOISE, **arguments, padding_mask_crop=4, output_type="pil")


@pytest.mark.slow
def test_a_transformer_made_for_inpainting(exported, tiny_sd_checkpoint):
    """It takes the mask and the latents of the kept part; those of a caller are in the VAE's own scale."""
    folder = tiny_sd_checkpoint("sd3-inpaint")
    bundle = exported(folder, target="onnxruntime,openvino")
    pair = {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}, opened(folder, INPAINT)
    arguments = {"image": NOISE, "mask_image": MASK, "num_inference_steps": 2}
    compare_each(*pair, TWO, **arguments, height=80, width=48, strength=1.0, seed=[1, 2])
    own = compare_each(*pair, "a red apple", **arguments)
    kept = np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)
    given = compare_each(*pair, "a red apple", **arguments, masked_image_latents=kept)
    assert np.abs(given - own).max() > 1e-2
    ours = pair[0]["onnxruntime"]
    assert ours.default_task.name == "inpainting"
    with pytest.raises(InputError, match="image: got none, expected image and mask_image: inpainting is what this"):
        ours("a red apple")
