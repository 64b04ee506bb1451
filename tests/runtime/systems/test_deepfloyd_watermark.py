"""The watermark of DeepFloyd IF and of the x4 upscaler: carried by a bundle, drawn as diffusers draws it, verified."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.pipelines.deepfloyd_if import IFWatermarker
from if_checkpoints import FIRST, IF_CHECKPOINTS, SECOND
from PIL.Image import fromarray
from PIL.Image import open as open_image
from safetensors.torch import save_file
from small_bundle import seal
from upscaler_checkpoint import make_upscaler

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.exporter.verify.checks.copied import check_copies
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.generate import command as generate
from diffoundry.runtime.errors import BundleError, CheckpointError

pytestmark = pytest.mark.slow

ENTRY = ["deepfloyd_if", "IFWatermarker"]
WEIGHTS = "watermarker/diffusion_pytorch_model.safetensors"
SIZE = {"height": 64, "width": 96}
UPSCALER = "upscaler"
MARKED = {**IF_CHECKPOINTS, UPSCALER: make_upscaler}


def make_watermarker():
    made = IFWatermarker()
    generator = torch.Generator().manual_seed(0)
    made.watermark_image = torch.randint(0, 256, (62, 62, 4), generator=generator).float()
    return made


def write_entry(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "watermarker": ENTRY}))


@pytest.fixture
def checkpoint(system_checkpoint, tmp_path):
    """A copy of a stage's checkpoint with a watermark."""

    def find(name):
        folder = shutil.copytree(system_checkpoint(name, MARKED[name]), tmp_path / f"{name}-marked")
        make_watermarker().save_pretrained(folder / "watermarker")
        write_entry(folder)
        return folder

    return find


@pytest.fixture
def bundle(system_checkpoint, exported, checkpoint, tmp_path):
    """The bundle of a stage, with the files that an export of the marked checkpoint copies."""

    def find(name):
        plain = exported(system_checkpoint(name, MARKED[name]), target="onnxruntime,openvino")
        folder = shutil.copytree(plain, tmp_path / f"{name}.bundle")
        write_entry(folder)
        copied = [(source, path) for source, path in open_checkpoint(str(checkpoint(name))).bundle_files()]
        for source, path in copied:
            if path.startswith("watermarker/"):
                (folder / path).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, folder / path)
        seal(folder, "model_index.json", "watermarker/config.json", WEIGHTS)
        return folder

    return find


def picture(width, height):
    return fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_images_are_diffusers_bit_for_bit(bundle, checkpoint, tmp_path):
    folder = bundle(FIRST)
    ours = load(folder, safety_checker=False)
    theirs = reference_pipeline(open_checkpoint(str(tmp_path / f"{FIRST}-marked")))
    theirs.safety_checker, theirs.watermarker = None, make_watermarker()
    options = {"num_inference_steps": 1, "num_images_per_prompt": 2, **SIZE}
    expected = theirs("a cat", generator=torch.Generator().manual_seed(0), **options).images
    images = ours("a cat", seed=0, **options).images
    clean = ours("a cat", seed=0, disable_watermark=True, **options).images
    for image, other, plain in zip(images, expected, clean, strict=True):
        assert image.tobytes() == other.tobytes()
        changed = np.argwhere(np.asarray(image) != np.asarray(plain))
        assert changed.min(axis=0)[:2].tolist() >= [50, 80]  # lower right
    pixels = ours("a cat", seed=0, output_type="np", **options).images  # as in diffusers, PIL images alone
    np.testing.assert_array_equal(np.round(pixels[0] * 255), np.asarray(clean[0]))
    marked, ours.watermarker = ours.watermarker, None
    assert ours("a cat", seed=0, **options).images[0].tobytes() == clean[0].tobytes()
    assert marked.watermark_image.shape == (62, 62, 4)


def test_upscaled_images_have_the_watermark_of_diffusers(bundle, tmp_path):
    ours = load(bundle(UPSCALER), target="onnxruntime")
    theirs = reference_pipeline(open_checkpoint(str(tmp_path / f"{UPSCALER}-marked")))
    theirs.watermarker = make_watermarker()
    options = {"image": picture(24, 16), "num_inference_steps": 1}
    (expected,) = theirs("a cat", generator=torch.Generator().manual_seed(0), **options).images
    (image,) = ours("a cat", seed=0, **options).images
    pixels = ours("a cat", seed=0, output_type="np", **options).images
    ours.watermarker = None
    (plain,) = ours("a cat", seed=0, **options).images
    marked, other, unmarked = (np.asarray(one, np.int16) for one in (image, expected, plain))
    assert np.abs(marked - other).max() <= 1  # where a last bit decides how a pixel is rounded
    assert np.abs(unmarked - np.round(pixels[0] * 255)).max() <= 1
    assert np.abs(marked - unmarked).max() > 10


def test_the_second_stage_and_the_command_line(bundle, tmp_path):
    folder = bundle(SECOND)
    picture(24, 20).save(tmp_path / "small.png")
    words = [
        str(folder),
        "a cat",
        "--image",
        str(tmp_path / "small.png"),
        "--steps=1",
        "--seed=0",
        "--no-safety-checker",
    ]
    sizes = ["--height=64", "--width=96"]
    for name, more in (("marked", []), ("clean", ["--disable-watermark"])):
        result = CliRunner().invoke(generate, [*words, *sizes, *more, "-o", str(tmp_path / f"{name}.png")])
        assert result.exit_code == 0, (result.output, result.exception)
    again = [*words[:1], *words[2:], "--like", str(tmp_path / "clean.png"), "-o", str(tmp_path / "again.png")]
    assert CliRunner().invoke(generate, again).exit_code == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "clean.png").read_bytes()
    with open_image(tmp_path / "marked.png") as marked, open_image(tmp_path / "clean.png") as clean:
        expected = make_watermarker().apply_watermark([clean.convert("RGB")], 16)[0]
        assert marked.convert("RGB").tobytes() == expected.tobytes() != clean.convert("RGB").tobytes()


def test_a_bundle_has_the_watermark_of_its_checkpoint(bundle, checkpoint, tmp_path):
    folder = bundle(FIRST)
    opened = open_checkpoint(str(tmp_path / f"{FIRST}-marked"))
    assert opened.notices() == []
    assert opened.bundle_model_index()["watermarker"] == ENTRY

    def check():
        found = {check.subject: check for check in check_copies(Bundle(folder), opened)}
        return found["watermarker"].passed

    assert check()
    other = make_watermarker()
    save_file({"watermark_image": 255 - other.watermark_image}, folder / WEIGHTS)
    seal(folder, WEIGHTS)
    assert not check()
    # Published checkpoints store bytes.
    save_file({"watermark_image": other.watermark_image.to(torch.uint8)}, folder / WEIGHTS)
    seal(folder, WEIGHTS)
    np.testing.assert_array_equal(load(folder).watermarker.watermark_image, other.watermark_image.numpy())
    save_file({"watermark_image": torch.zeros(62, 62, 3)}, folder / WEIGHTS)
    seal(folder, WEIGHTS)
    with pytest.raises(
        BundleError, match=r"got 'watermark_image' of shape \(62, 62, 3\), expected \(height, width, 4\)"
    ):
        load(folder)


def test_a_checkpoint_without_its_file_is_refused(checkpoint):
    folder = checkpoint(FIRST)
    random = open_checkpoint(str(folder), random_weights=True)
    assert "watermarker of the checkpoint is left out: there are no random weights of it" in random.notices()
    assert random.bundle_model_index()["watermarker"] == [None, None]
    (folder / WEIGHTS).unlink()
    with pytest.raises(
        CheckpointError, match="watermarker: no weights found, expected diffusion_pytorch_model.safetensors"
    ):
        open_checkpoint(str(folder)).bundle_files()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_export_carries_it_and_verify_compares_it(checkpoint, exported):
    folder = exported(checkpoint(FIRST), target="onnxruntime")
    assert load(folder).watermarker is not None
    report = verify(folder, None, VerifyRequest(steps=2))
    assert [check.passed for check in report.checks if check.subject == "watermarker"] == [True]
