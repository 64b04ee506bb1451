"""Report of a verification: the worst first, differences amplified, every failure."""

import dataclasses
import html
import math

import numpy as np
import pytest
from PIL import Image

from diffoundry.exporter.verify.progress import ImagePair
from diffoundry.exporter.verify.report.image_rows import amplification, image_section, to_image
from diffoundry.exporter.verify.report.page import (
    first_fault,
    measured_text,
    report_sections,
    variant_row,
    verdict,
    worst_checks,
)
from diffoundry.exporter.verify.report.report import (
    SCHEMA_VERSION,
    Absence,
    LoopResult,
    StepDistance,
    VariantReport,
    VerifyReport,
    at_least,
    at_most,
    holds,
)
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.report import Curves, Gate, Images, Table, write_report


def _loop(prompt, psnr, errors=(1e-6, 2e-6), shows="cat"):
    curve = tuple(
        StepDistance(index=i, timestep=9.0 - i, max_abs=e, scale=1.0, relative_max=e, relative_rms=e)
        for i, e in enumerate(errors)
    )
    return LoopResult(
        prompt=prompt, seed=0, steps=2, reference_steps=2, curve=curve, worst=int(np.argmax(errors)), psnr=psnr,
        ssim=0.9, shift=1e-3, shows=shows, reference_shows="cat", fault=None, reference_fault=None,
    )  # fmt: skip


def _build(name, loops, checks=()):
    return VariantReport(
        name=name, precision="fp16", engines={"unet": name}, checks=tuple(checks), outputs=(), loops=tuple(loops),
        seconds=1.0, passed=all(check.passed for check in checks),
    )  # fmt: skip


def _report(*variants, checks=(), absent=()):
    settings = Settings(prompts=("a",), seeds=(0,), steps=2, guidance_scale=1.0, height=8, width=8)
    return VerifyReport(
        schema_version=SCHEMA_VERSION, diffoundry="1", bundle="b", checkpoint="c", settings=settings, gallery="g",
        notes=("look",), checks=tuple(checks), variants=variants, absent=tuple(absent), seconds=2.0,
        passed=all(check.passed for variant in variants for check in variant.checks),
    )  # fmt: skip


def _pair(variant, prompt, error=0.0):
    reference = np.full((8, 8, 3), 0.25, np.float32)
    return ImagePair(variant=variant, prompt=prompt, seed=0, ours=reference + np.float32(error), reference=reference)


def test_a_build_in_numbers_is_its_worst_images():
    loops = [_loop("a", 40.0), _loop("b", 30.0, errors=(0.5, 0.1), shows="dog")]
    assert variant_row(_build("ort", loops)) == ["ort", "30.0", "35.0", "0.90000", "1 of 2", "0.5"]
    assert variant_row(_build("ort", [_loop("a", math.nan), loops[0]]))[1:3] == ["nan", "nan"]
    assert variant_row(_build("ort", [])) == ["ort", *["–"] * 5]
    unnamed = dataclasses.replace(loops[0], shows=None, reference_shows=None)
    assert variant_row(_build("ort", [unnamed]))[4] == "–"


def test_all_failures_are_shown_and_the_passed_check_nearest_to_its_gate():
    checks = [
        holds("component", "unet", "shape", None),
        at_least("component", "unet out_sample", "PSNR, dB", 60, 50),
        at_least("component", "vae sample", "PSNR, dB", 90, 50),
        *(at_least("image", f"p{i}", "PSNR, dB", value, 35) for i, value in enumerate((50, 40, 45))),
        *(at_most("loop", f"p{i}", "latents", value, 0.1) for i, value in enumerate((0.01, 0.2, 0.09, 0.3))),
        *(holds("image", f"p{i}", "image", None) for i in range(3)),
    ]
    assert [(check.part, check.subject, check.measured) for check in worst_checks(checks)] == [
        ("component", "unet", "equal"),
        ("component", "unet out_sample", 60),
        ("component", "vae sample", 90),
        ("image", "p1", 40),
        ("image", "p0", "equal"),
        ("loop", "p1", 0.2),
        ("loop", "p3", 0.3),
    ]


def test_images_stand_in_threes_with_the_worst_first():
    variant = _build("ort", [_loop("a", 40.0), _loop("b", math.nan), _loop("c", 30.0)])
    section = image_section(variant, [_pair("ort", "a"), _pair("ort", "b"), _pair("ort", "c", 0.1)])
    assert [image.caption for image in section.images[::3]] == ["b, seed 0", "c, seed 0", "a, seed 0"]
    reference, ours, difference = section.images[3:6]
    assert ours.note == "shows cat, 30.0 dB, SSIM 0.9000"
    assert difference.note == "8 times"
    assert [np.asarray(one.image)[0, 0, 0] for one in (reference, ours, difference)] == [64, 89, 204]


def test_only_the_worst_of_many_are_shown_and_large_ones_scaled_down():
    loops = [_loop(str(i), 20.0 + i) for i in range(20)]
    pairs = [_pair("ort", str(i)) for i in range(20)]
    section = image_section(_build("ort", loops), pairs)
    assert len(section.images) == 3 * 16
    assert "The 16 worst of 20." in section.text
    image = to_image(np.full((512, 384, 3), 2.0))
    assert (image.size, image.getpixel((0, 0))) == ((192, 256), (255, 255, 255))


@pytest.mark.parametrize(
    ("largest", "factor"), [(0.0, 1), (1.0, 1), (0.6, 1), (0.5, 2), (0.26, 2), (0.25, 4), (1e-3, 512), (1e-9, 1 << 20)]
)
def test_a_difference_is_amplified_to_just_below_white(largest, factor):
    assert amplification([np.zeros((4, 4, 3)), np.full((4, 4, 3), largest)]) == factor
    assert largest * factor <= 1


def test_nan_is_black_and_amplifies_nothing():
    assert to_image(np.full((2, 2, 3), np.nan)).getpixel((1, 1)) == (0, 0, 0)
    assert amplification([np.full((2, 2, 3), np.nan)]) == 1


def test_the_page_tells_of_every_build_and_of_those_that_did_not_run(tmp_path):
    good = _build("ort fp16", [_loop("a", 40.0, errors=(0.01, 0.05))], [at_least("image", "a", "PSNR, dB", 40, 35)])
    bad = _build("ov fp16", [_loop("a", 30.0, errors=(0.2, 0.1))], [at_least("image", "a", "PSNR, dB", 30, 35)])
    failing = _build("x fp16", [], [holds("engine", "x fp16", "runs", "no file", "runs")])
    absent = Absence(name="coreml fp16", reason="needs a Mac")
    report = _report(good, bad, failing, checks=[holds("config", "unet", "options", None)], absent=[absent])
    assert verdict(report) == (
        "FAILED: 2 of 4 checks (ov fp16, x fp16); b is not the model c. First fault: a: PSNR, dB 30, limit >= 35"
    )
    assert verdict(_report(good)) == "passed: all 1 checks; b is the model c"
    sections = report_sections(report, [_pair("ort fp16", "a"), _pair("ov fp16", "a", 0.5)])
    overview = sections[0]
    assert [row[0] for row in overview.rows] == ["ort fp16", "ov fp16", "x fp16", "coreml fp16"]
    assert [row[-1] for row in overview.rows] == [
        Gate(passed=True, text="1 of 1"), Gate(passed=False, text="0 of 1"), Gate(passed=False, text="0 of 1"),
        Gate(passed=None, text="needs a Mac"),
    ]  # fmt: skip
    curves = next(section for section in sections if isinstance(section, Curves))
    assert [(curve.label, list(curve.values), curve.limit) for curve in curves.curves] == [
        ("ort fp16", [0.01, 0.05], 0.1), ("ov fp16", [0.2, 0.1], 0.1),
    ]  # fmt: skip
    assert sum(isinstance(section, Images) for section in sections) == 2
    assert [section.title for section in sections if isinstance(section, Table)] == [
        "Engines", "ort fp16: every image", "ort fp16: checks", "ov fp16: checks", "ov fp16: every image",
        "x fp16: checks", "Files, configs, token ids",
    ]  # fmt: skip
    write_report(tmp_path / "r.html", "t", sections, text=verdict(report), passed=report.passed)
    page = (tmp_path / "r.html").read_text()
    assert f'<p class="verdict fail">{html.escape(verdict(report))}</p>' in page
    assert page.count("<img ") == 6
    assert "needs a Mac" in page
    assert "no file" in page


def test_the_first_fault_is_the_one_nearest_to_the_cause():
    def part(name, value):
        return at_least("component", f"{name} out", "PSNR, dB", value, 50)

    scheduler = holds("config", "scheduler DDIM", "options", "beta_end: got 0.012, expected 0.02")
    image = at_least("image", "a", "PSNR, dB", 10, 35)
    fault = at_most("component", "unet out_sample", "relative RMS error", 0.5, 1e-3, "t=981")
    cases = [
        ([], [part("text_encoder", 60), fault, part("vae_decoder", 60), image],
         "unet out_sample: relative RMS error 0.5 (t=981), limit <= 0.001; text_encoder and vae_decoder are right"),
        ([scheduler], [part("unet", 60), image],
         "scheduler DDIM: beta_end: got 0.012, expected 0.02; unet is right"),
        ([], [part("unet", 10), image], "unet out: PSNR, dB 10, limit >= 50"),
        ([], [image], "a: PSNR, dB 10, limit >= 35"),
    ]  # fmt: skip
    for shared, checks, sentence in cases:
        assert first_fault(_report(_build("ort", [], checks), checks=shared)) == sentence
    report = _report(_build("ort", [], [part("unet", 60), image]), checks=[scheduler])
    sections = report_sections(report, [])
    assert sections[0].title == "Files, configs, token ids"
    assert next(s for s in sections if s.title == "ort: checks").rows[0][-1] == Gate(passed=False, text=">= 35")


def test_a_cosine_is_shown_by_its_distance_from_1():
    assert measured_text(at_least("component", "unet", "cosine", 1 - 2.5e-11, 1 - 1e-10)) == "1 - 2.5e-11"


def test_the_worst_image_of_a_build_is_named_in_its_plot():
    loops = [_loop("a", 40.0, errors=(0.01, 0.05)), _loop("b", 40.0, errors=(0.3, 0.01))]
    variant = _build("ort", loops)
    pairs = [_pair("ort", "a"), _pair("ort", "b")]
    plot = next(s for s in report_sections(_report(variant), pairs) if s.title == "ort: latents")
    assert [curve.label for curve in plot.curves] == ["", "b, seed 0"]
    assert "The worst is b, seed 0 after step 1, timestep 9: largest error 0.3" in plot.text


def test_images_of_another_size_are_shown_as_wholly_different():
    pair = dataclasses.replace(_pair("ort", "a"), ours=np.zeros((4, 4, 3), np.float32))
    section = image_section(_build("ort", [_loop("a", math.nan)]), [pair])
    assert isinstance(section.images[2].image, Image.Image)
    assert np.asarray(section.images[2].image).min() == 255
