"""LoRAs of Stable Diffusion XL at run time: both text encoders and the UNet, against diffusers, after every step."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

# As of Stable Diffusion 1: seen are 2e-6 to 4e-6; what the LoRAs change shows as 1e-1.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def xl(exported, tiny_sd_checkpoint):
    return exported(tiny_sd_checkpoint("xl"), target="onnxruntime,openvino")


@pytest.fixture
def theirs(diffusers_of):
    return diffusers_of("xl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "which", "dtype"),
    [
        ("kohya-xl", "everything", torch.float16),
        pytest.param("peft", "projections", torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_every_step_is_diffusers(xl, theirs, make_lora, steps, error, tmp_path, form, which, dtype):
    path = make_lora(tmp_path / "x.safetensors", form, which, dtype=dtype, variant="xl")
    theirs.load_lora_weights(str(path))
    expected = steps(theirs)
    for target in ("onnxruntime", "openvino"):
        ours = load(xl, target=target)
        before = steps(ours)
        report = ours.loras.load(path)
        with_lora = steps(ours)
        assert error(with_lora, expected) < TOLERANCE
        assert error(with_lora, before) > 0.03
        assert report.unused == ()
        assert set(report.layers) == {"unet", "text_encoder", "text_encoder_2"}
        ours.loras.unload()
        after = steps(ours)
        assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        assert np.array_equal(before[1], after[1])


def test_the_files_names_are_those_of_the_original_code(make_lora, tmp_path):
    """So that the test above compares what trainers write, and no names of diffusers."""
    names = load_file(make_lora(tmp_path / "x.safetensors", "kohya-xl", variant="xl"))
    unet = [name for name in names if name.startswith("lora_unet_")]
    assert unet
    assert all(re.match(r"lora_unet_(input_blocks|middle_block|output_blocks)_\d", name) for name in unet)
    assert {name.partition("_text_model_")[0] for name in names if "_te" in name} == {"lora_te1", "lora_te2"}


@pytest.mark.parametrize(
    ("form", "pattern", "message"),
    [
        # Stable Diffusion 1 has attentions at the first level, XL has none there
        (
            "kohya",
            "attention",
            r"tensor 'lora_unet_down_blocks_0_attentions_0_.*' is for a layer that the bundle's unet",
        ),
        (
            "peft",
            "attention",
            r"tensor 'unet\.down_blocks\.0\.attentions\.0\..*' is for a layer that the bundle's unet",
        ),
    ],
)
def test_a_lora_of_stable_diffusion_1_is_refused(xl, make_lora, tmp_path, form, pattern, message):
    ours = load(xl)
    path = make_lora(tmp_path / "x.safetensors", form, pattern)
    with pytest.raises(InputError, match=f"LoRA .*x.safetensors: {message} does not have; it was trained for another"):
        ours.loras.load(path)
    assert ours.loras.scales == {}


def test_a_lora_of_xl_is_refused_by_stable_diffusion_1(opened, make_lora, tmp_path):
    path = make_lora(tmp_path / "x.safetensors", "kohya-xl", "attention", variant="xl")
    with pytest.raises(
        InputError, match=r"LoRA .*: tensor 'lora_.*' is for .*; it was trained for another (family|model)"
    ):
        opened().loras.load(path)
