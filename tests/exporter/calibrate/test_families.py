"""Calibration of other checkpoints than text to image with one encoder: every component is measured and chosen for."""

import shutil

import pytest

from diffoundry.calibration.quality import Budget
from diffoundry.calibration.ranges import read_ranges
from diffoundry.exporter.calibrate.calibrate import calibrate
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.targets.base import PrecisionFormat


@pytest.mark.slow
@pytest.mark.parametrize("variant", [pytest.param("xl", marks=pytest.mark.slow), "inpaint"])
def test_every_component_is_calibrated(exported, tiny_sd_checkpoint, tmp_path, variant):
    folder = shutil.copytree(exported(tiny_sd_checkpoint(variant)), tmp_path / "tiny.bundle")
    small = {"prompts": ("red apple", "cat face"), "held_out": ("pizza",), "steps": 2, "threads": 1}
    form = PrecisionFormat(weights="int8", activations="uint8", outputs=True)
    request = QuantizationRequest(budget=Budget(min_psnr=15), **small)
    choice = calibrate(folder, request, {"int8": [form]})["int8"]
    encoders = {"text_encoder", "text_encoder_2"} if variant == "xl" else {"text_encoder"}
    assert set(choice.components) == {*encoders, "unet", "vae_encoder", "vae_decoder"}
    assert choice.psnr >= 15
    ranges = read_ranges(folder, "unet").tensors
    assert len(ranges["sample"].step_low) == 2
    if variant == "inpaint":  # the mask is beside the latents
        assert ranges["sample"].high >= 1


@pytest.mark.slow
def test_controlnets_are_calibrated_with_a_drawn_image(controlled_bundle, tmp_path):
    folder = shutil.copytree(controlled_bundle(nets=("first", "pooled")), tmp_path / "tiny.bundle")
    (folder / "diffoundry.json").unlink()  # as during an export
    request = QuantizationRequest(
        budget=Budget(min_psnr=15), prompts=("red apple", "cat face"), held_out=("pizza",), steps=2, threads=1
    )
    form = PrecisionFormat(weights="int8", activations="uint8", outputs=True)
    choice = calibrate(folder, request, {"int8": [form]})["int8"]
    others = {"text_encoder", "unet", "vae_encoder", "vae_decoder"}
    assert set(choice.components) == {*others, "controlnet", "controlnet_1"}
    for name in ("controlnet", "controlnet_1"):  # measured at every step, of which PNDM makes three of two
        assert len(read_ranges(folder, name).tensors["sample"].step_low) == 3
