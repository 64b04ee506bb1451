"""Latent diffusion without a prompt, and for super-resolution, against diffusers: steps, codes, images, errors."""

import diffusers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ldm_checkpoints import LDM_CHECKPOINTS, make_vq_checkpoint
from PIL import Image
from system_pair import compare_system, open_theirs

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.rehearse import rehearse
from diffoundry.exporter.components.defaults import complete_config
from diffoundry.exporter.components.vae import vae_decoder
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.verify.checks.codes import check_codes
from diffoundry.exporter.verify.checks.graphs import check_graphs
from diffoundry.runtime import load
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.errors import CheckpointError, InputError, UnknownArgumentError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(system_checkpoint, exported):
    """Our pipeline and diffusers', by the class."""

    def open_both(name, **options):
        folder = system_checkpoint(name, LDM_CHECKPOINTS[name])
        half = "precision" in options
        bundle = exported(folder, **({"precision": "fp16"} if half else {"target": "onnxruntime,openvino"}))
        return load(bundle, **options), open_theirs(folder, name)

    return open_both


def image(width=70, height=40, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height))


def tensor(count=2, height=16, width=12):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


CASES = {
    "one": ("LDMPipeline", {}),
    "eta": ("LDMPipeline", {"eta": 0.6, "batch_size": 3}),
    "sides that are no multiples of 32": ("LDMSuperResolutionPipeline", {"image": image()}),
    "upright": ("LDMSuperResolutionPipeline", {"image": image(32, 64), "eta": 1.0}),
    "tensors": ("LDMSuperResolutionPipeline", {"image": tensor()}),
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(pair, target):
    for name, arguments in CASES.values():
        drawn = arguments.get("eta", 0) > 0
        compare_system(*pair(name, target=target), global_noise=drawn, num_inference_steps=4, **arguments)


def test_other_schedulers_scale_latents_and_image(pair):
    """One class scales its noise by the schedule of training, the other by that of the run."""
    for name, kind, arguments in (
        ("LDMPipeline", "EulerDiscreteScheduler", {}),
        ("LDMSuperResolutionPipeline", "EulerAncestralDiscreteScheduler", {"image": tensor(1)}),
        ("LDMSuperResolutionPipeline", "LMSDiscreteScheduler", {"image": tensor(1)}),
    ):
        ours, theirs = pair(name)
        theirs.scheduler = getattr(diffusers, kind).from_config(theirs.scheduler.config)
        own = {"scheduler": kind}
        compare_system(ours, theirs, global_noise=True, num_inference_steps=4, ours_only=own, **arguments)


def test_codes_are_those_of_diffusers_in_every_precision(pair):
    """In fp16 latents may come to lie nearer to another code, but the same latents have the same codes."""
    for precision, tolerance in (("fp32", 1e-5), ("fp16", 5e-3)):
        ours, theirs = pair("LDMPipeline", **({"precision": "fp16"} if precision == "fp16" else {}))
        latents = ours(batch_size=2, seed=0, num_inference_steps=4, output_type="latent").images
        scaled = torch.from_numpy(latents) / 0.7
        _, _, (_, _, codes) = theirs.vqvae.quantize(scaled)
        mine = ours.vae.quantize(scaled.numpy())
        np.testing.assert_array_equal(mine, codes.reshape(2, 6, 6).numpy())
        assert len(np.unique(mine)) > 10
        with torch.no_grad():
            decoded = (theirs.vqvae.decode(scaled).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(ours.decode(latents, "np"), decoded, atol=tolerance)


def test_verify_finds_a_changed_codebook(pair):
    ours, theirs = pair("LDMPipeline")
    latents = np.random.default_rng(0).standard_normal((2, 3, 9, 7), np.float32)
    (check,) = check_codes(ours, theirs.vqvae, [latents])
    assert check.passed
    assert check.measure == "of 126 latents"
    kind = vae_decoder("vqvae", ("VQModel",))
    component = kind.describe({"vqvae": complete_config(dict(theirs.vqvae.config), "VQModel")})
    tables = "vae_decoder/tables.safetensors"
    found = {check.subject: check for check in check_graphs(ours.session.bundle, component, theirs.vqvae)}
    assert found[tables].passed
    theirs.vqvae.quantize.embedding.weight.data[3] *= 1.001
    theirs.vqvae.quantize.embedding.weight.data[5:] = -theirs.vqvae.quantize.embedding.weight.data[5:]
    (check,) = check_codes(ours, theirs.vqvae, [latents])
    assert not check.passed
    assert check.measured.endswith("differ")
    found = {check.subject: check for check in check_graphs(ours.session.bundle, component, theirs.vqvae)}
    assert [subject for subject, check in found.items() if not check.passed] == [tables]
    assert found[tables].measured.startswith("quantize.embedding.weight: 108 of 120 weights differ")


def test_several_images_and_the_first_argument_are_images(pair):
    ours, theirs = pair("LDMSuperResolutionPipeline")
    assert ours.default_size == (128, 128)
    both = ours([image(), image(seed=1)], seed=[3, 4], num_inference_steps=2, output_type="np").images
    assert both.shape == (2, 128, 256, 3)
    alone = theirs(image(seed=1), generator=torch.Generator().manual_seed(4), num_inference_steps=2, output_type="np")
    np.testing.assert_allclose(both[1], alone.images[0], atol=1e-4)
    twice = ours(image(), batch_size=2, seed=[3, 4], num_inference_steps=2, output_type="np").images
    np.testing.assert_allclose(twice[0], both[0], atol=1e-5)
    assert np.abs(twice[0] - twice[1]).max() > 1e-3
    floats = np.moveaxis(tensor().numpy(), 1, -1)
    options = {"seed": 0, "num_inference_steps": 2, "output_type": "np"}
    np.testing.assert_array_equal(ours(floats, **options).images, ours(tensor(), **options).images)


ERRORS = {
    "LDMPipeline": (
        ({"prompt": "a cat"}, "prompt: got 'a cat', expected none: unconditional images are what this checkpoint"),
        ({"eta": 1.5}, "eta: got 1.5, expected a number of at least 0 and at most 1"),
        ({"batch_size": 0}, "batch_size: got 0, expected a whole number of at least 1"),
        ({"latents": np.zeros((1, 3, 8, 8), np.float32)}, r"latents: got shape \(1, 3, 8, 8\), expected \(1, 3, 6, 6"),
        ({"scheduler": "FlowMatchEulerDiscrete"}, "FlowMatchEulerDiscreteScheduler"),
        ({"height": 64}, "height"),
    ),
    "LDMSuperResolutionPipeline": (
        ({}, "image: got none, expected the image to enlarge"),
        ({"prompt": "a cat", "image": image()}, "prompt: got 'a cat', expected none: enlarged images are what this"),
        ({"image": image(24, 40)}, "image: got 24 x 40 pixels, expected at least 32 x 32; enlarge it"),
        ({"image": tensor(1, 15, 16)}, "image: got 16x15 pixels, expected multiples of 2 for this checkpoint"),
        ({"image": [image(), image(64, 64)]}, "image: got 70 x 40, 64 x 64, expected images of one size"),
        ({"image": tensor(), "batch_size": 3}, "batch_size: got 3 for 2 images, expected 2; several results are made"),
        ({"image": "cat.png"}, "image"),
        ({"image": image().convert("RGBA")}, None),
    ),
}


def test_wrong_arguments_are_refused(pair):
    for name, cases in ERRORS.items():
        ours, _ = pair(name)
        for arguments, words in cases:
            if words is None:
                assert ours(**arguments, num_inference_steps=1).images[0].size == (256, 128)
                continue
            with pytest.raises((InputError, UnknownArgumentError), match=words):
                ours(**{"num_inference_steps": 2, **arguments})


def test_the_command_makes_an_image_again_from_its_settings(pair, tmp_path, monkeypatch):
    """Without sides, which the image to enlarge decides, and without a prompt."""
    ours, _ = pair("LDMSuperResolutionPipeline")
    monkeypatch.chdir(tmp_path)
    image().save("in.png")

    def generate(*options):
        return CliRunner().invoke(command, [str(ours.session.bundle.root), "--image", "in.png", *options])

    first = generate("--steps", "2", "--seed", "5", "--eta", "0.5", "-o", "first.png")
    assert first.exit_code == 0, first.output
    assert generate("--like", "first.png", "-o", "second.png").exit_code == 0
    assert Image.open("first.png").tobytes() == Image.open("second.png").tobytes()
    assert Image.open("first.png").size == (256, 128)
    for options, words in (
        (("--num-images", "0"), "--num-images: got 0, expected a whole number of at least 1"),
        (("a cat",), "PROMPT: got 'a cat', expected none"),
    ):
        refused = generate(*options)
        assert isinstance(refused.exception, InputError)
        assert str(refused.exception).startswith(words)


def test_a_unet_without_channels_for_the_image_is_refused(tmp_path):
    """Before the first job of an export."""
    make_vq_checkpoint(tmp_path, "LDMSuperResolutionPipeline", sample_size=32)
    opened = open_checkpoint(str(tmp_path))
    with pytest.raises(
        CheckpointError, match="got 3 channels in and latents of 3, expected 6 and 3 for super-resolutio"
    ):
        rehearse(
            opened, make_recipe(opened, ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),)))
        )
