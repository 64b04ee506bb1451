"""A true bundle passes, and the report says what was measured; the numbers are those of an independent comparison."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.verify import (
    SCHEMA_VERSION,
    VerifyProgress,
    VerifyReport,
    VerifyRequest,
    report_to_json,
    verify,
)
from diffoundry.runtime import load
from diffoundry.runtime.bundle.json_codec import from_json
from diffoundry.runtime.errors import InputError

_NAMES = ("red apple, seed 0", "red apple, seed 7", "cat face, seed 0", "cat face, seed 7")


class _Memory(VerifyProgress):
    def __init__(self):
        self.stages = []
        self.pairs = []

    def update(self, text, done, total):
        self.stages.append((text, done, total))

    def images(self, pair):
        self.pairs.append(pair)


@pytest.fixture(scope="module")
def passing(emoji_bundle):
    """The report of a true bundle with 2 prompts x 2 seeds in 3 steps, and what was seen on the way."""
    torch.set_num_threads(1)
    memory = _Memory()
    request = VerifyRequest(prompts=("red apple", "cat face"), seeds=(0, 7), steps=3)
    return verify(emoji_bundle, request=request, progress=memory), memory


def test_a_true_bundle_passes_every_check(passing):
    report, _ = passing
    assert [check for check in report.all_checks if not check.passed] == []
    assert report.passed
    (note,) = report.notes
    assert "show something else for cat face, seed 0 (hamster), cat face, seed 7" in note, "in three steps"
    assert report.absent == ()
    assert report.checkpoint == "emoji"
    (variant,) = report.variants
    assert (variant.name, variant.precision) == ("onnxruntime fp32", "fp32")
    assert variant.engines == dict.fromkeys(("text_encoder", "unet", "vae_encoder", "vae_decoder"), "onnxruntime fp32")


def test_every_output_is_compared_on_every_case(passing):
    outputs = passing[0].variants[0].outputs
    cases = {(result.component, result.output): set() for result in outputs}
    for result in outputs:
        cases[result.component, result.output].add(result.case)
        assert 0 < result.distance.relative_rms < 1e-5, "0 would mean that PyTorch was compared with itself"
        assert result.distance.cosine > 1 - 1e-10
        assert result.distance.psnr > 100
    assert cases == {
        ("text_encoder", "last_hidden_state"): {"prompts", "vocabulary"},
        ("text_encoder", "pooler_output"): {"prompts", "vocabulary"},
        ("text_encoder", "normalized_hidden_states"): {"prompts", "vocabulary"},
        ("unet", "out_sample"): {
            *(f"red apple, seed 0, t={t}" for t in (667, 334, 1)),
            "red apple, seed 7, t=667",
            "cat face, seed 0, t=334",
            "cat face, seed 7, t=1",
        },
        ("vae_encoder", "latent_parameters"): set(_NAMES),
        ("vae_decoder", "sample"): {f"latents of {name}" for name in _NAMES},
    }


def test_every_image_has_a_curve_with_its_worst_step(passing):
    loops = passing[0].variants[0].loops
    assert [loop.name for loop in loops] == list(_NAMES)
    for loop in loops:
        assert [step.index for step in loop.curve] == [0, 1, 2]
        assert [step.timestep for step in loop.curve] == [667, 334, 1]
        assert loop.curve[loop.worst].relative_max == max(step.relative_max for step in loop.curve)
        assert 0 < loop.curve[0].relative_max < 1e-4
        assert loop.psnr > 100
        assert 1 - 1e-6 < loop.ssim <= 1
        assert loop.shift < 1e-5
        assert (loop.fault, loop.reference_fault) == (None, None)


def test_the_numbers_are_those_of_an_independent_comparison(passing, emoji_bundle):
    report, memory = passing
    arguments = {"num_inference_steps": 3, "guidance_scale": 7.5}
    reference = reference_pipeline(open_checkpoint("emoji"), torch.float32)
    generator = torch.Generator("cpu").manual_seed(7)
    theirs = reference("cat face", generator=generator, output_type="latent", **arguments).images.numpy()
    ours = load(emoji_bundle)("cat face", seed=7, output_type="latent", **arguments).images
    step = report.variants[0].loops[3].curve[-1]
    scale = np.sqrt(np.mean(np.square(theirs, dtype=np.float64)))
    assert step.scale == pytest.approx(scale, rel=1e-5)
    assert step.max_abs == pytest.approx(float(np.abs(ours - theirs).max()), rel=0.5)
    image = reference("cat face", generator=generator.manual_seed(7), output_type="np", **arguments).images[0]
    np.testing.assert_allclose(memory.pairs[3].reference, image, atol=1e-5)
    np.testing.assert_allclose(memory.pairs[3].ours, image, atol=1e-4)


def test_progress_counts_the_steps_of_both_sides(passing):
    _, memory = passing
    for side in ("PyTorch", "onnxruntime fp32"):
        assert [seen[1:] for seen in memory.stages if seen[0] == f"{side}: cat face, seed 7"] == [
            (1, 3),
            (2, 3),
            (3, 3),
        ]


def test_the_report_survives_strict_json(passing):
    report, _ = passing
    text = json.dumps(report_to_json(report), allow_nan=False)
    data = json.loads(text)
    assert data["schema_version"] == SCHEMA_VERSION
    assert from_json(VerifyReport, data) == dataclasses.replace(report)


@pytest.mark.slow
def test_a_folder_without_a_manifest_is_compared_with_a_named_checkpoint(emoji_bundle, tmp_path, quick):
    folder = shutil.copytree(emoji_bundle, tmp_path / "optimum")
    (folder / "diffoundry.json").unlink()
    with pytest.raises(InputError, match=r"optimum: got a folder without a manifest.*--against"):
        verify(folder, request=quick)
    report = verify(folder, open_checkpoint("emoji"), quick)
    assert report.passed
    assert report.variants[0].engines["unet"] == "onnxruntime fp32"
    assert "no manifest" in report.notes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ()}, "prompts: got none"),
        ({"seeds": ()}, "seeds: got none"),
        ({"steps": 0}, "steps: got 0, expected at least 1"),
    ],
)
def test_nothing_to_compare_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        VerifyRequest(**arguments)
