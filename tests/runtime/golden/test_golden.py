"""Bundles of every manifest format, written by the exporter of the time: opened, run, and compared with diffusers."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.manifest import FORMAT_VERSION
from diffoundry.runtime.errors import BundleError, EngineError

HERE = Path(__file__).parent

VERSIONS = (1, 2, 3, 4, 5)

TOLERANCE = 1e-4
"""Of latents, relative to their largest: fp32 in two libraries that sum in different orders."""

ARGUMENTS = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 16, "width": 16}


@pytest.fixture(scope="session")
def unpack(tmp_path_factory):
    """Factory: the folder of the golden bundle of a format; shared, so copy it before changing it."""
    folders = {}

    def make(version):
        if version not in folders:
            folders[version] = tmp_path_factory.mktemp(f"golden-v{version}")
            with tarfile.open(HERE / f"v{version}.tar.xz") as archive:
                archive.extractall(folders[version], filter="data")
        return folders[version]

    return make


@pytest.fixture(scope="module")
def expected():
    with np.load(HERE / "expected.npz") as arrays:
        return dict(arrays)


def follow(pipe, expected, name, tolerance=TOLERANCE, **arguments):
    """Compare the latents after every step and the image with those that diffusers made."""
    run = pipe.start("a red apple", seed=0, output_type="np", **ARGUMENTS, **arguments)
    latents = expected[f"{name}_latents"]
    for step, wanted in zip(run, latents, strict=True):
        assert np.abs(step.latents - wanted).max() / np.abs(wanted).max() < tolerance, f"step {step.index}"
    np.testing.assert_allclose(run.finish().images, expected[f"{name}_image"], atol=20 * tolerance)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_format_is_read_and_gives_the_image_of_diffusers(unpack, expected, version):
    folder = unpack(version)
    assert json.loads((folder / "diffoundry.json").read_text())["format_version"] == version
    net = {"control_image": expected["hint"], "controlnet_conditioning_scale": 0.0} if version >= 4 else {}
    follow(load(folder), expected, "plain", **net)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_file_is_as_it_was_written(unpack, version):
    bundle = Bundle(unpack(version))
    assert bundle.components[:4] == ("text_encoder", "unet", "vae_encoder", "vae_decoder")
    for name in bundle.manifest.files:
        assert bundle.file(name).is_file()  # checks the SHA-256


def test_format_1_names_its_only_variant(unpack):
    (variant,) = Bundle(unpack(1)).manifest.recipe.variants
    assert (variant.target, variant.precision, variant.options) == ("onnxruntime", "fp32", {})


def test_format_2_holds_several_variants(unpack, expected):
    variants = Bundle(unpack(2)).manifest.recipe.variants
    assert [(variant.target, variant.precision) for variant in variants] == [
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp16"),
    ]
    follow(load(unpack(2), precision="fp16"), expected, "plain", tolerance=2e-2)


@pytest.mark.parametrize("version", [3, 4, 5])
def test_engines_from_format_3_on_take_a_lora(unpack, expected, version):
    pipe = load(unpack(version))
    pipe.loras.load(HERE / "lora.safetensors")
    net = {"control_image": expected["hint"], "controlnet_conditioning_scale": 0.0} if version >= 4 else {}
    follow(pipe, expected, "lora", **net)
    pipe.loras.unload()
    follow(pipe, expected, "plain", **net)


@pytest.mark.parametrize("version", [1, 2])
def test_engines_of_older_formats_say_that_they_take_no_lora(unpack, version):
    with pytest.raises(EngineError, match="got onnxruntime fp32, which takes no LoRA"):
        load(unpack(version)).loras.load(HERE / "lora.safetensors")


@pytest.mark.parametrize("version", [4, 5])
def test_formats_from_4_on_have_a_controlnet(unpack, expected, version):
    assert Bundle(unpack(version)).manifest.recipe.controlnets == ("controlnet",)
    follow(load(unpack(version)), expected, "controlnet", control_image=expected["hint"])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_component_has_a_role_and_a_network(unpack, version):
    bundle = Bundle(unpack(version))
    found = {name: (bundle.role(name), bundle.network(name)) for name in bundle.components}
    expected = {
        "text_encoder": ("text_encoder", "CLIPTextModel"),
        "unet": ("denoiser", "UNet2DConditionModel"),
        "vae_encoder": ("vae_encoder", "AutoencoderKL"),
        "vae_decoder": ("vae_decoder", "AutoencoderKL"),
        "controlnet": ("controlnet", "ControlNetModel"),
    }
    assert found == {name: expected[name] for name in found}
    assert bundle.with_role("denoiser") == ("unet",)


def test_the_newest_format_has_a_golden_bundle():
    assert VERSIONS[-1] == FORMAT_VERSION
    assert sorted(path.name for path in HERE.glob("*.tar.xz")) == [f"v{version}.tar.xz" for version in VERSIONS]


def test_a_newer_format_is_refused_with_a_sentence(unpack, tmp_path):
    folder = unpack(VERSIONS[-1])
    manifest = json.loads((folder / "diffoundry.json").read_text())
    manifest |= {"format_version": FORMAT_VERSION + 1, "diffoundry": "9.9"}
    (tmp_path / "diffoundry.json").write_text(json.dumps(manifest))
    with pytest.raises(
        BundleError,
        match=rf"got format version {FORMAT_VERSION + 1} \(written by diffoundry 9\.9\), "
        rf"expected 1 to {FORMAT_VERSION}; upgrade diffoundry",
    ):
        load(tmp_path)
