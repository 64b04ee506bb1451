"""Gates, and how checks and curves are judged by them."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest

from diffoundry.calibration.prompts import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS
from diffoundry.exporter.verify.checks.gates import GATES, coarsest, gates_for, pair_psnr
from diffoundry.exporter.verify.checks.loop import follow, judge_loop
from diffoundry.exporter.verify.checks.metrics import psnr
from diffoundry.exporter.verify.image_size import nearest
from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.exporter.verify.reference.pipeline_trace import Trace
from diffoundry.exporter.verify.report.report import at_least, at_most, holds
from diffoundry.exporter.verify.request import Settings
from diffoundry.runtime.bundle.specs import PRECISIONS, DimSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.pipelines.denoising import Step


def test_every_precision_has_gates_and_a_coarser_one_has_no_tighter_ones():
    assert set(GATES) == set(PRECISIONS)
    for fine, coarse in pairwise(GATES.values()):
        for field in ("relative_max", "relative_rms", "latents", "shift"):
            assert getattr(fine, field) <= getattr(coarse, field)
        for field in ("cosine", "psnr", "image_psnr", "ssim", "agreement"):
            assert getattr(fine, field) >= getattr(coarse, field)
        assert fine != coarse


def test_calibration_has_seen_none_of_the_prompts_that_it_is_judged_by():
    seen = {prompt.partition(" ")[2] for prompt in (*CALIBRATION_PROMPTS, *HELD_OUT_PROMPTS)}
    assert len(seen) == len(CALIBRATION_PROMPTS) + len(HELD_OUT_PROMPTS)
    assert not seen & set(PROMPTS)


def test_gates_keep_the_documented_limits():
    assert GATES["fp16"].image_psnr == 35
    assert GATES["bf16"].image_psnr == 28


def test_the_coarsest_component_decides_for_the_image():
    assert coarsest(["fp32", "fp16", "fp32"]) == "fp16"
    assert coarsest(["fp32"]) == "fp32"
    assert coarsest(["int8", "int8-weights", "bf16"]) == "int8"
    with pytest.raises(ConfigError, match="gates: got the precision 'fp12', expected one of fp32, fp16"):
        gates_for("fp12")


def test_two_images_may_differ_by_the_errors_of_both():
    assert pair_psnr(35.0) == 35
    assert pair_psnr(35.0, 35.0) == pytest.approx(35 - 6.0206, abs=0.1)
    assert pair_psnr(60.0, 28.0) == pair_psnr(28.0, 60.0) == 27.7
    rng = np.random.default_rng(0)
    error = rng.choice([-1.0, 1.0], 1000)
    a, b = error * 10 ** (-35 / 20), -error * 10 ** (-28 / 20)
    assert psnr(a, b, peak=1) == pytest.approx(pair_psnr(35.0, 28.0), abs=0.1), "errors of opposite signs add up"


def test_checks_at_their_limits():
    assert at_most("p", "s", "m", 1.0, 1.0).passed
    assert not at_most("p", "s", "m", 1.0000001, 1.0).passed
    assert at_least("p", "s", "m", 1.0, 1.0).passed
    assert not at_least("p", "s", "m", 0.9999999, 1.0).passed
    assert not at_most("p", "s", "m", math.nan, 1.0).passed
    assert not at_least("p", "s", "m", math.nan, 1.0).passed
    assert holds("p", "s", "m", None).measured == "equal"
    assert (holds("p", "s", "m", "two").passed, holds("p", "s", "m", "two").measured) == (False, "two")


class _Pipeline:
    """Generates the given arrays, one a step."""

    text_encoders = ("text_encoder",)

    def __init__(self, latents, image):
        self.latents, self.image = latents, image

    def start(self, prompt, **arguments):
        self.arguments = {"prompt": prompt, **arguments}
        return self

    def __iter__(self):
        for index, latents in enumerate(self.latents):
            yield Step(index=index, total=len(self.latents), timestep=0.0, latents=latents)

    def pack(self, latents):
        return latents

    def finish(self):
        return dataclasses.make_dataclass("Output", ["images"])(images=[self.image])


_SETTINGS = Settings(
    prompts=("p",),
    seeds=(5,),
    steps=3,
    guidance_scale=2.0,
    height=8,
    width=8,
    arguments={"num_inference_steps": 3, "guidance_scale": 2.0},
)


def _generated(latents, image=None):
    """Compare these latents with diffusers' -2 and 2 after each of three steps."""
    reference = np.float32([[-2, 2]])
    true = np.linspace(0, 1, 192, dtype=np.float32).reshape(8, 8, 3)
    trace = Trace(prompt="p", seed=5, timesteps=(9.0, 5.0, 1.0), latents=(reference,) * 3, result=true)
    pipeline = _Pipeline(latents, true if image is None else image)
    result, _ = follow(pipeline, trace, None, _SETTINGS, lambda *_: None)
    assert pipeline.arguments == {
        "prompt": "p", "seed": 5, "num_inference_steps": 3, "guidance_scale": 2.0, "height": 8, "width": 8,
        "output_type": "np",
    }  # fmt: skip
    failed = {check.measure: check.measured for check in judge_loop(result, GATES["fp32"]) if not check.passed}
    return result, failed


def _off(error):
    return np.float32([[-2, 2 + error]])


def test_the_worst_step_decides_by_its_error_over_the_rms():
    result, failed = _generated([_off(0), _off(0.5), _off(0.25)])
    assert [step.relative_max for step in result.curve] == [0, 0.25, 0.125]
    assert result.curve[1].relative_rms == pytest.approx(0.25 / math.sqrt(2))
    assert [step.timestep for step in result.curve] == [9, 5, 1]
    assert result.worst == 1
    assert failed == {"latents, max abs error / RMS": 0.25}


def test_an_error_that_goes_away_again_still_fails():
    assert list(_generated([_off(1e-3), _off(0), _off(0)])[1]) == ["latents, max abs error / RMS"]


def test_a_nan_is_the_worst_step():
    result, failed = _generated([_off(100), _off(math.nan), _off(200)])
    assert result.worst == 1
    assert math.isnan(failed["latents, max abs error / RMS"])


def test_a_missing_step_fails():
    _, failed = _generated([_off(0), _off(0)])
    assert failed == {"number of steps": "2, expected 3"}


def test_latents_of_another_shape_fail():
    _, failed = _generated([np.zeros((1, 3), np.float32)] * 3)
    assert math.isnan(failed["latents, max abs error / RMS"])


def test_another_image_fails():
    image = np.full((8, 8, 3), 0.5, dtype=np.float32)
    result, failed = _generated([_off(0)] * 3, image)
    assert failed["PSNR, dB"] == result.psnr < 20
    assert "one colour" in failed["bundle's image"]


@pytest.mark.parametrize(
    ("dim", "size"),
    [
        (DimSpec(), 512),
        (DimSpec(min=256, max=1024, multiple_of=8), 512),
        (DimSpec(min=768, max=1024, multiple_of=64), 768),
        (DimSpec(min=64, max=320, multiple_of=64), 320),
        (DimSpec(min=384, max=384), 384),
        (DimSpec(min=96, max=None, multiple_of=96), 480),
    ],
)
def test_the_size_generated_is_one_that_the_bundle_takes(dim, size):
    assert nearest(512, dim) == size
    assert dim.refusal(size) is None
