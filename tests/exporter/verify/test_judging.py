"""Images spoiled on purpose, judged by the gates of every precision: each check finds what it is there for."""

import math
from pathlib import Path

import numpy as np
import pytest

from diffoundry.exporter.verify.checks.gates import GATES, may_be_rounding, promised_gates
from diffoundry.exporter.verify.checks.loop import follow, judge_images, judge_loop
from diffoundry.exporter.verify.checks.nearest_image import open_gallery
from diffoundry.exporter.verify.reference.pipeline_trace import Trace
from diffoundry.exporter.verify.report.report import LoopResult, StepDistance
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.pipelines.denoising import Step

_LATENTS = np.float32([[-2, 2]])
_SETTINGS = Settings(prompts=("red apple",), seeds=(0,), steps=1, guidance_scale=7.5, height=64, width=64)


class _Pipeline:
    """Makes one step without an error, then generates the given image."""

    text_encoders = ("text_encoder",)

    def __init__(self, image):
        self.images = [image]

    def start(self, prompt, **arguments):
        return self

    def __iter__(self):
        yield Step(index=0, total=1, timestep=1.0, latents=_LATENTS)

    def pack(self, latents):
        return latents

    def finish(self):
        return self


@pytest.fixture(scope="module")
def gallery():
    return open_gallery(Path(__file__).parents[3] / "models/emoji")


@pytest.fixture(scope="module")
def things(gallery):
    """Label to image, 64 x 64."""
    return {
        label: np.repeat(np.repeat(gallery.thumbnails[gallery.labels.index(label)], 4, 0), 4, 1)
        for label in ("red apple", "cat face", "rocket", "cloud", "envelope")
    }


def _found(reference, image, gallery):
    trace = Trace(prompt="red apple", seed=0, timesteps=(1.0,), latents=(_LATENTS,), result=reference)
    return follow(_Pipeline(image.astype(np.float32)), trace, gallery, _SETTINGS, lambda *_: None)[0]


def _failed(reference, image, gallery, precision):
    result = _found(reference, image, gallery)
    checks = [*judge_loop(result, GATES[precision]), *judge_images([result], GATES[precision])]
    return {check.measure for check in checks if not check.passed}


def _latents_check(errors, rounding, precision="fp32"):
    """Judge latents of these errors, where PyTorch's own rounding makes others."""
    curve = tuple(
        StepDistance(index=i, timestep=1.0, max_abs=error, scale=1.0, relative_max=error, relative_rms=error)
        for i, error in enumerate(errors)
    )
    result = LoopResult(
        prompt="red apple", seed=0, steps=len(errors), reference_steps=len(errors), curve=curve, worst=0, psnr=90.0,
        ssim=1.0, shift=0.0, shows=None, reference_shows=None, fault=None, reference_fault=None, rounding=rounding,
    )  # fmt: skip
    return next(check for check in judge_loop(result, GATES[precision]) if check.measure.startswith("latents"))


@pytest.mark.parametrize(
    ("errors", "rounding", "limit", "passed"),
    [
        ((9e-5, 2e-4), None, 1e-4, False),
        ((5e-5, 2e-4), (1e-5, 6e-5), 2.4e-4, True),
        ((2e-4, 2e-4), (1e-5, 6e-5), 1e-4, False),  # before the run multiplies its rounding
        ((1e-5, 0.2), (1e-5, 0.9), 0.1, False),  # a wrong option
        ((1e-5, math.nan), (1e-5, 0.9), 0.1, False),
    ],
)
def test_a_run_that_multiplies_rounding_has_a_wider_gate(errors, rounding, limit, passed):
    check = _latents_check(errors, rounding)
    assert (check.limit, check.passed) == (pytest.approx(limit), passed)
    assert ("PyTorch's own rounding" in check.detail) == (rounding is not None)


def test_only_distances_that_rounding_can_make_are_measured_again():
    fp32, fp16 = GATES["fp32"], GATES["fp16"]
    assert [may_be_rounding(distance, fp32) for distance in (9e-5, 2e-4, 0.1, 0.2, math.nan)] == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert not any(may_be_rounding(distance, fp16) for distance in (0.01, 0.2))


_EVERY = pytest.mark.parametrize("precision", GATES)


@_EVERY
def test_the_same_image_passes(things, gallery, precision):
    assert _failed(things["red apple"], things["red apple"], gallery, precision) == set()


@_EVERY
def test_a_image_that_is_5_percent_darker_is_a_shift_in_every_precision(things, gallery, precision):
    failed = _failed(things["red apple"], things["red apple"] * 0.95, gallery, precision)
    assert "mean shift" in failed
    assert "same object, %" not in failed, "it still shows the apple: only the shift gives it away"
    assert ("PSNR, dB" in failed) == (GATES[precision].image_psnr > 27)


@_EVERY
def test_a_tint_of_one_colour_is_a_shift(things, gallery, precision):
    tinted = things["red apple"] * np.float32([1, 1, 0.95])
    assert "mean shift" in _failed(things["red apple"], tinted, gallery, precision)


@_EVERY
def test_another_prompts_image_fails_everything_that_looks_at_it(things, gallery, precision):
    failed = _failed(things["red apple"], things["cat face"], gallery, precision)
    assert failed >= {"PSNR, dB", "SSIM", "same object, %"}


@_EVERY
def test_noise_fails_everything_that_looks_at_it(things, gallery, precision):
    noise = np.random.default_rng(0).random((64, 64, 3))
    assert _failed(things["red apple"], noise, gallery, precision) >= {"PSNR, dB", "SSIM", "same object, %"}


@_EVERY
def test_swapped_red_and_blue_fail(things, gallery, precision):
    failed = _failed(things["red apple"], things["red apple"][..., ::-1], gallery, precision)
    assert failed >= {"PSNR, dB", "same object, %"}


@pytest.mark.parametrize("precision", ["fp8", "int4-weights"])
def test_the_coarsest_gates_leave_it_to_the_gallery_to_tell_near_things_apart(things, gallery, precision):
    """Past the middle between the envelope and the cloud, its nearest neighbour among the 263, PSNR still passes."""
    reference, other = things["envelope"], things["cloud"]
    turned = reference + (other - reference) * 0.55
    failed = _failed(reference, turned, gallery, precision)
    assert "PSNR, dB" not in failed
    assert "same object, %" in failed


def test_fine_noise_on_a_flat_ground_is_found_by_ssim_alone():
    reference = np.full((64, 64, 3), 0.9, np.float32)
    reference[24:40, 24:40] = 0.2
    noisy = reference + np.random.default_rng(1).normal(0, 10 ** (-36 / 20), reference.shape)
    assert _failed(reference, noisy, None, "fp16") == {"SSIM"}


def test_agreement_counts_all_images_and_names_those_that_changed(things, gallery):
    apple = things["red apple"]
    right, wrong = _found(apple, apple, gallery), _found(apple, things["rocket"], gallery)
    (check,) = judge_images([right] * 9 + [wrong], GATES["int8"])
    assert (check.subject, check.measure, check.measured, check.passed) == ("10 images", "same object, %", 90, True)
    assert check.detail == "red apple, seed 0: rocket, expected red apple"
    (check,) = judge_images([right] * 8 + [wrong] * 2, GATES["int8"])
    assert (check.measured, check.passed) == (80, False)
    (check,) = judge_images([right] * 31 + [wrong], GATES["fp16"])
    assert not check.passed


def test_without_a_gallery_no_labels_are_compared(things):
    apple = things["red apple"]
    assert judge_images([_found(apple, apple, None)] * 9, GATES["fp32"]) == []


def _with_psnr(decibels):
    reference = np.full((8, 8, 3), 0.5, np.float32)
    reference[0] = 0.7
    sign = np.where(np.indices((8, 8)).sum(0) % 2, 1, -1)[..., None]
    return _found(reference, reference + sign * 10 ** (-decibels / 20), None)


def test_a_promise_is_kept_in_the_mean_over_8_images_and_by_half_in_each():
    gates = promised_gates("int8", 30.0)
    assert (gates.mean_psnr, gates.image_psnr) == (30, 24)
    good, bad = _with_psnr(32), _with_psnr(25)
    assert good.psnr == pytest.approx(32, abs=1e-3)
    (check,) = judge_images([good] * 6 + [bad] * 2, gates)
    assert (check.measure, check.passed) == ("mean PSNR, dB", True)
    assert check.measured == pytest.approx((6 * 32 + 2 * 25) / 8, abs=1e-3)
    (check,) = judge_images([good] * 4 + [bad] * 4, gates)
    assert not check.passed
    assert judge_images([bad] * 7, gates) == [], "too few to judge a mean"
    worst = next(check for check in judge_loop(_with_psnr(23.9), gates) if check.measure == "PSNR, dB")
    assert (worst.passed, worst.limit) == (False, 24)


def test_a_promise_does_not_loosen_the_gate_of_a_float_precision():
    assert promised_gates("fp16", 30.0).image_psnr == GATES["fp16"].image_psnr
    assert promised_gates("int8", None) == GATES["int8"]


def test_a_image_with_nan_shows_nothing_and_fails(things, gallery):
    broken = things["red apple"].copy()
    broken[0, 0, 0] = math.nan
    assert _failed(things["red apple"], broken, gallery, "int4-weights") == {
        "PSNR, dB", "SSIM", "mean shift", "same object, %", "bundle's image",
    }  # fmt: skip
