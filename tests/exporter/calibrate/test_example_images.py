"""Calibration of pipelines that start from an image, or that images guide: every image has an example of its own."""

import numpy as np
import pytest
from system_targets import check_int8

from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.generation_tasks import PromptTask
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.pipelines.example_inputs import make_example_inputs

PSNR = 15


def pixels(image):
    return np.asarray(image).astype(int)


def test_a_seed_draws_other_images():
    names = ["image", "strength", "control_image", "ip_adapter_image"]
    first, again, other, usual = (make_example_inputs(names, 48, 64, seed=seed) for seed in (3, 3, 4, None))
    for name in ("image", "control_image"):
        np.testing.assert_array_equal(pixels(first[name]), pixels(again[name]))
        assert np.abs(pixels(first[name]) - pixels(other[name])).mean() > 10
        assert np.abs(pixels(first[name]) - pixels(usual[name])).mean() > 10
    np.testing.assert_array_equal(pixels(first["ip_adapter_image"][0][0]), pixels(first["image"]))
    assert first["image"].size == (64, 48)
    assert pixels(make_example_inputs(["image"], 48, 64, 4, 3)["image"]).shape == (12, 16, 3)


@pytest.mark.slow
def test_each_image_of_a_task_has_its_own(exported, tiny_sd_checkpoint):
    """The image of a prompt does not depend on the others of its batch."""
    bundle = Bundle(exported(tiny_sd_checkpoint("inpaint")))
    prompts = [SeededPrompt(text="red apple", seed=seed) for seed in (0, 1)]
    made = PromptTask(steps=2).generate(EngineSession(bundle), prompts)
    assert made.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(PromptTask(steps=2).generate(EngineSession(bundle), prompts[1:]), made[1:])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["T2I-Adapters", "IP-Adapter", "IP-Adapter Plus"])
def test_int8_is_calibrated(exported, tiny_sd_checkpoint, tiny_t2i_adapter, tiny_ip_adapter, kind):
    if kind == "T2I-Adapters":
        parts = {"adapter", "adapter_1"}
        joined = {"t2i_adapters": tuple(str(tiny_t2i_adapter(kind=name)) for name in ("full", "grey"))}
    else:
        parts = {"ip_adapter"}
        joined = {"ip_adapters": (str(tiny_ip_adapter(kind="plus" if "Plus" in kind else "plain")),)}
    request = QuantizationRequest(budget=Budget(min_psnr=PSNR), prompts=("cat", "dog"), held_out=("apple",), steps=4)
    bundle = exported(tiny_sd_checkpoint("sd1-small"), precision="fp32,int8", quantization=request, **joined)
    choice = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert choice.psnr >= PSNR
    assert {*parts, "unet"} <= {name for name, one in choice.components.items() if one.quantized}
    images = [_generate(load(bundle, precision=one)) for one in ("fp32", "int8")]
    check_int8(*images, PSNR)


def _generate(pipe):
    height, width = pipe.default_size
    arguments = pipe.measure_arguments(4, 3.0, height, width, seed=7)
    return np.asarray(pipe("a cat", seed=0, output_type="np", **arguments).images)
