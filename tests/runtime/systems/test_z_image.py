"""Z-Image against diffusers' own pipelines on a tiny random checkpoint, after every step."""

import diffusers
import pytest
from PIL import Image
from system_pair import compare_system, open_theirs
from tiny_z_image import make_z_image

from diffoundry.runtime import load

TO_IMAGE, INPAINT = "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"
WIDTH, HEIGHT = 24, 16
NOISE = Image.effect_noise((WIDTH, HEIGHT), 90).convert("RGB")
MASK = Image.new("L", (WIDTH, HEIGHT))
MASK.paste(255, (4, 5, 19, 12))
TWO = ["a cat", "a red apple on the table, an astronaut that rides a horse on the moon " * 3]
FEW = {"num_inference_steps": 3, "height": HEIGHT, "width": WIDTH}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("z-image", make_z_image)


@pytest.fixture(scope="module")
def pipelines(exported, folder):
    """Target to the pipeline."""
    bundle = exported(folder, target="onnxruntime,openvino")
    return {target: load(bundle, target=target) for target in ("onnxruntime", "openvino")}


@pytest.fixture(scope="module")
def theirs(folder):
    plain = open_theirs(folder, "ZImagePipeline")
    made = {name: getattr(diffusers, name).from_pipe(plain) for name in (TO_IMAGE, INPAINT)}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return {"ZImagePipeline": plain, **made}


CASES = {
    "turbo": {"prompt": "a cat", "guidance_scale": 0.0, "height": 32, "width": 32},
    "guided": {
        "prompt": TWO, "negative_prompt": ["blue " * 40, ""], "num_images_per_prompt": 2, "height": 40,
        "cfg_normalization": True, "max_sequence_length": 100,
    },
    "truncated": {"prompt": TWO, "cfg_truncation": 0.4, "guidance_scale": 0.5, "cfg_normalization": 0.9},
    "without an end": {"prompt": "", "cfg_truncation": None, "sigmas": [1.0, 0.6, 0.2]},
}  # fmt: skip


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pipelines, theirs, target):
    for case in CASES if target == "onnxruntime" else ("guided",):
        compare_system(pipelines[target], theirs["ZImagePipeline"], **{**FEW, **CASES[case]})


def test_from_images(pipelines, theirs):
    ours = pipelines["onnxruntime"]
    several = {"prompt": TWO, "num_images_per_prompt": 2, "negative_prompt": ["blue", ""], "watch": False, **FEW}
    compare_system(ours, theirs[TO_IMAGE], image=NOISE, **several)
    compare_system(ours, theirs[INPAINT], image=NOISE, mask_image=MASK, **several)
    several |= {"prompt": "a cat", "negative_prompt": None, "guidance_scale": 0.0}
    compare_system(ours, theirs[INPAINT], image=NOISE, mask_image=MASK, strength=0.5, **several)
