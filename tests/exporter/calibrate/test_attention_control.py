"""Calibrated int8 of a UNet that takes edits of its attention: edits and heat maps are those of fp32."""

import numpy as np
import pytest
from system_targets import check_int8

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PSNR = 20

MAPS = 0.25
"""Largest RMS of the change of heat maps, over their RMS."""

PROMPTS = ["a red apple on the table", "a green apple on the table"]

EDITS = {
    "replace": {"edit_type": "replace", "n_cross_replace": 0.8, "n_self_replace": 0.5},
    "refine": {"edit_type": "refine", "n_cross_replace": 0.8, "n_self_replace": 0.5},
    "reweight": {
        "edit_type": "reweight", "n_cross_replace": 1.0, "n_self_replace": 0.5, "equalizer_words": ["apple"],
        "equalizer_strengths": [4],
    },
    "local blend": {
        "edit_type": "replace", "n_cross_replace": 0.8, "n_self_replace": 0.5,
        "local_blend_words": ["red", "green"], "local_blend_threshold": 0.8,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(exported, tiny_sd_checkpoint):
    request = QuantizationRequest(budget=Budget(min_psnr=PSNR), prompts=("cat", "dog"), held_out=("apple",), steps=4)
    folder = tiny_sd_checkpoint("sd1-edited")
    return exported(folder, precision="fp32,int8", quantization=request, attention_control=True)


def test_the_unet_is_quantized(bundle):
    choice = Bundle(bundle).manifest.recipe.quantization["int8"]
    assert choice.psnr >= PSNR
    assert choice.components["unet"].quantized


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_those_of_fp32(bundle, name):
    """They change the second image alone, in both precisions by as much."""
    prompts = [PROMPTS[0]] * 2 if name == "reweight" else PROMPTS
    arguments = {"num_inference_steps": 4, "seed": 0, "output_type": "np", "heat_map_words": ["apple"]}
    results = {}
    for precision in ("fp32", "int8"):
        pipe = load(bundle, precision=precision)
        edited = pipe(prompts, cross_attention_kwargs=EDITS[name], **arguments)
        plain = pipe(prompts, **arguments)
        np.testing.assert_array_equal(edited.images[0], plain.images[0])
        results[precision] = edited, np.abs(edited.images - plain.images)[1].mean()
    (expected, effect), (given, changed) = results["fp32"], results["int8"]
    check_int8(expected.images, given.images, PSNR)
    assert changed == pytest.approx(effect, rel=0.3)
    maps, quantized = (result.heat_maps["apple"] for result in (expected, given))
    assert 0 < np.square(maps - quantized).mean() < MAPS**2 * np.square(maps).mean()
