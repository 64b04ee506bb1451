"""Stable Diffusion XL's tasks and other checkpoints of its family on OpenVINO: every step against diffusers'."""

import pytest
from PIL import Image
from pipeline_harness import compare, diffusers_pipeline

from diffoundry.runtime import load

pytestmark = pytest.mark.slow

TEXT, IMAGE, INPAINT = (f"StableDiffusionXL{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint"))

MASK = Image.new("L", (64, 64))
MASK.paste(255, (16, 8, 47, 53))


def arguments_of(pipeline, apple):
    arguments = {"num_inference_steps": 4}
    if pipeline != TEXT:
        arguments["image"] = apple
    if pipeline == INPAINT:
        arguments["mask_image"] = MASK
    return arguments


@pytest.mark.parametrize(
    ("variant", "pipeline"),
    [
        ("xl", IMAGE),
        ("xl", INPAINT),
        pytest.param("xl-inpaint", INPAINT, marks=pytest.mark.slow),  # nine channels
        pytest.param("xl-distilled", TEXT, marks=pytest.mark.slow),  # the guidance scale is an input
        pytest.param("xl-refiner", IMAGE, marks=pytest.mark.slow),  # the second text encoder alone, aesthetic scores
    ],
)
def test_every_step_is_diffusers(exported, tiny_sd_checkpoint, apple, variant, pipeline):
    folder = tiny_sd_checkpoint(variant)
    ours = load(exported(folder, target="openvino"))
    compare(ours, diffusers_pipeline(folder, pipeline), "a green apple", **arguments_of(pipeline, apple))
