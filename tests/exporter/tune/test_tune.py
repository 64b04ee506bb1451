"""Approximations measured against the exact loop, the search within a budget, and presets of a bundle."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from diffoundry.exporter.cli.tune import command as tune_command
from diffoundry.exporter.cli.verify import command as verify_command
from diffoundry.exporter.tune import measure, session
from diffoundry.exporter.tune.approximation import Approximation, parse_approximation
from diffoundry.exporter.tune.measure import generate_exact, measure_distance, sample, summarize
from diffoundry.exporter.tune.ray_sweep import SweepWorker
from diffoundry.exporter.tune.search import MeasureHere, candidates, search
from diffoundry.exporter.verify.image_size import settings_for
from diffoundry.exporter.verify.request import VerifyRequest
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli import ray_workers
from diffoundry.runtime.cli.generate import command as generate_command
from diffoundry.runtime.errors import BundleError, InputError
from diffoundry.runtime.presets import read_presets

STEPS = 14
REQUEST = VerifyRequest(prompts=("red apple", "sailboat"), steps=STEPS, guidance_scale=4.0)
FEW = [Approximation(cache=f"taylor:1:interval={interval}") for interval in (6, 3, 2)]
"""Six, eight and ten of the steps call the denoiser."""


@pytest.fixture(scope="module")
def exact(emoji_bundle):
    """The pipeline, its settings, and the images of the exact loop."""
    pipeline = load(emoji_bundle)
    settings = settings_for(pipeline, REQUEST)
    return pipeline, settings, generate_exact(pipeline, settings)


@pytest.fixture
def copied(emoji_bundle, tmp_path):
    return shutil.copytree(emoji_bundle, tmp_path / "emoji.bundle")


@pytest.fixture
def few_candidates(monkeypatch):
    monkeypatch.setattr(session, "candidates", lambda _steps: FEW)


def compare(pipeline, settings, one, images):
    """The report without the times of the exact loop in turns."""
    return summarize(one, [measure_distance(pipeline, settings, one, image) for image in images], images)


def invoke(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_what_is_measured(exact):
    pipeline, settings, images = exact
    assert [(one.prompt, one.seed, one.rows) for one in images] == [(name, 0, 2 * STEPS) for name in REQUEST.prompts]
    report = compare(pipeline, settings, FEW[0], images)
    made = [sample(pipeline, settings, FEW[0], one.prompt, 0).image for one in images]
    errors = [np.square(ours.astype(float) - one.image).mean() for ours, one in zip(made, images, strict=True)]
    decibels = -10 * np.log10(errors)
    assert (report.psnr, report.worst_psnr) == pytest.approx((decibels.mean(), decibels.min()), abs=1e-4)
    assert (report.rows, report.exact_rows, report.images) == (12, 28, 2)
    assert report.fewer_rows == pytest.approx(28 / 12)
    nothing = compare(pipeline, settings, Approximation(guidance_interval=(0.0, 1.0)), images)
    assert (nothing.psnr, nothing.ssim, nothing.fewer_rows) == (150.0, pytest.approx(1.0), 1.0)


@pytest.mark.slow
def test_the_cheapest_within_the_budget(exact, monkeypatch):
    pipeline, settings, images = exact
    reports = [compare(pipeline, settings, one, images) for one in FEW]
    distances = [report.psnr for report in reports]
    assert distances == sorted(distances)
    for index, one in enumerate(FEW):
        found = search(MeasureHere(pipeline, settings, images), images, distances[index] - 0.01, FEW)
        assert found[0][0] == one
        assert found[0][1] == replace(reports[index], seconds=found[0][1].seconds)
    generated = []
    start = pipeline.start
    monkeypatch.setattr(pipeline, "start", lambda prompt, **more: generated.append(prompt) or start(prompt, **more))
    search(MeasureHere(pipeline, settings, images), images, distances[-1] - 0.01, FEW[-1:])
    assert generated == list(REQUEST.prompts)  # the first image is not made twice
    assert search(MeasureHere(pipeline, settings, images), images, distances[-1] + 11, FEW) == []
    refused = Approximation(scheduler="FlowMatchEulerDiscrete")
    with pytest.raises(InputError, match="tune: this bundle takes none of 1 approximations; the last: FlowMatchEuler"):
        search(MeasureHere(pipeline, settings, images), images, 10, [refused])
    assert search(MeasureHere(pipeline, settings, images), images, distances[-1] + 11, [refused, FEW[0]]) == []


def test_candidates_are_read_as_they_are_written():
    made = list(candidates(25))
    assert len(made) == len(set(made)) > 60
    assert [parse_approximation(one.text) for one in made] == made
    assert Approximation(steps=12) in made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--approximation: got '', expected NAME=VALUE with one of the names steps, scheduler, guidance-interval"),
        ("speed=2", "--approximation: got 'speed=2', expected NAME=VALUE"),
        ("steps=2,steps=3", "--approximation: got steps twice, expected it once"),
        ("steps=none", "--approximation: got steps=none, expected a whole number"),
        ("guidance-interval=0.2", "--approximation guidance-interval: got '0.2', expected LOW:HIGH"),
        ("guidance-interval=0.8:0.2", "guidance-interval: got .*, expected two fractions"),
        ("cache=wide:3", "cache: got 'wide:3', expected taylor:ORDER"),
    ],
)
def test_text_that_is_no_approximation(text, message):
    with pytest.raises(InputError, match=message):
        parse_approximation(text)


def test_pipelines_that_cannot_be_measured(exact, monkeypatch):
    pipeline, settings, _ = exact
    monkeypatch.setattr(type(pipeline), "argument_names", frozenset({"cache"}))
    with pytest.raises(InputError, match="steps: .*has no such argument; leave it out of the approximation"):
        sample(pipeline, settings, Approximation(steps=1), "red apple", 0)
    monkeypatch.undo()
    few = settings_for(pipeline, replace(REQUEST, steps=1))
    monkeypatch.setattr(measure, "result_of", lambda _done: np.zeros((77, 8), np.float32))
    with pytest.raises(InputError, match="got one that makes no images, expected images to compare"):
        sample(pipeline, few, None, "red apple", 0)


@pytest.mark.slow
def test_verify_compares_with_the_exact_loop(emoji_bundle):
    few = ("--steps", STEPS, "--guidance-scale", 4, "--prompts", 2, "--threads", 1)
    chosen = ("--approximation", FEW[0].text, "--approximation", "guidance-interval=0:0.5")
    done = invoke(verify_command, emoji_bundle, *few, *chosen, "--json")
    assert done.exit_code == 0, done.output
    (measured,) = json.loads(done.stdout)
    assert measured["name"] == "onnxruntime fp32"
    cached, interval = measured["reports"]
    assert (cached["rows"], cached["exact_rows"], cached["images"]) == (12, 28, 2)
    assert cached["same_object"] == 2
    assert interval["rows"] == 21
    assert cached["seconds"] > 0
    shown = invoke(verify_command, emoji_bundle, *few, *chosen)
    assert "2.33x" in shown.output
    assert "guidance-interval=0:0.5" in shown.output


def test_options_that_approximation_replaces(emoji_bundle):
    done = invoke(verify_command, emoji_bundle, "--approximation", "steps=2", "--against", "emoji")
    assert "--against: got one with --approximation, which compares the engines with themselves" in str(done.exception)
    done = invoke(verify_command, emoji_bundle, "--approximation", "speed=2")
    assert "--approximation: got 'speed=2'" in str(done.exception)


@pytest.mark.usefixtures("few_candidates")
def test_a_preset_is_found_stored_and_used(copied, tmp_path):
    few = ("--steps", STEPS, "--prompts", 2, "--threads", 1)
    done = invoke(tune_command, copied, "--min-psnr", 15, *few, "--guidance-scale", 4, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["approximation"] == FEW[0].text
    assert report["held_out"]["psnr"] >= 15
    stored = read_presets(Bundle(copied))["fast"]
    assert stored["arguments"] == {"num_inference_steps": STEPS, "guidance_scale": 4.0, "cache": FEW[0].cache}
    assert stored["measured"]["times_as_few_rows"] == 2.333

    done = invoke(tune_command, copied, "--min-psnr", 15, *few, "--preset", "other")
    assert "stored as preset 'other'" in done.output
    assert set(read_presets(Bundle(copied))) == {"fast", "other"}

    done = invoke(generate_command, copied, "red apple", "--seed", 0, "--preset", "fast", "-o", tmp_path / "a.png")
    assert done.exit_code == 0, done.output
    pipe = load(copied)
    expected = pipe("red apple", seed=0, **pipe.preset("fast")).images[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(expected))
    exact = pipe("red apple", seed=0, num_inference_steps=STEPS, guidance_scale=4.0).images[0]
    assert not np.array_equal(np.asarray(exact), np.asarray(expected))

    # Options override a preset.
    invoke(
        generate_command, copied, "red apple", "--seed", 0, "--preset", "fast", "--steps", 4, "-o", tmp_path / "b.png"
    )
    fewer = pipe("red apple", seed=0, **{**pipe.preset("fast"), "num_inference_steps": 4}).images[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), np.asarray(fewer))
    done = invoke(generate_command, copied, "red apple", "--preset", "fats")
    assert "preset: got 'fats', expected one of fast, other" in str(done.exception)
    assert "Did you mean 'fast'?" in str(done.exception)


@pytest.mark.usefixtures("few_candidates")
def test_nothing_within_the_budget_stores_nothing(copied):
    done = invoke(tune_command, copied, "--min-psnr", 110, "--steps", STEPS, "--prompts", 2, "--threads", 1)
    assert done.exit_code == 1
    assert "none of 3 approximations is within 110 dB of the exact loop in 14 steps" in done.output
    assert read_presets(Bundle(copied)) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_on_a_cluster_finds_what_one_process_does(copied, monkeypatch):
    """Two workers measure; only the times differ, and every search ends with the same candidates in the same order."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'diffoundry[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    few = (
        *FEW,
        Approximation(scheduler="FlowMatchEulerDiscrete"),
        Approximation(steps=7),
        Approximation(cache="sea:1"),
    )
    monkeypatch.setattr(session, "candidates", lambda _steps: few)
    found = []
    monkeypatch.setattr(session, "search", lambda *given: found.append(search(*given)) or found[-1])
    options = ("--steps", STEPS, "--prompts", 4, "--threads", 1, "--min-psnr", 15)
    here = invoke(tune_command, copied, *options, "--preset", "here")
    assert here.exit_code == 0, here.output
    ray.init(
        address="local", num_cpus=2, object_store_memory=100 * 10**6, include_dashboard=False, logging_level="ERROR"
    )
    monkeypatch.setattr(ray_workers, "_connect", lambda *_: None)  # this process is connected
    there = invoke(tune_command, copied, *options, "--preset", "there", "--ray", "auto")
    assert there.exit_code == 0, there.output
    assert "2 workers of Ray" in there.output
    assert [one for one, _ in found[0]] == [one for one, _ in found[1]]
    assert len(found[0]) > 1
    for (_, first), (_, second) in zip(*found, strict=True):  # sums over pixels depend on where an array begins
        assert (first.rows, first.images) == (second.rows, second.images)
        assert (first.psnr, first.worst_psnr) == pytest.approx((second.psnr, second.worst_psnr), rel=1e-9)
    presets = read_presets(Bundle(copied))
    for stored in presets.values():
        del stored["measured"]["times_as_fast"]
    assert presets["here"] == presets["there"]


def test_a_worker_with_other_engines_is_refused(emoji_bundle):
    opening = str(emoji_bundle), REQUEST, "openvino int8", None, ()
    with pytest.raises(InputError, match=r"--ray: the worker on .* would use onnxruntime fp32, expected openvino int8"):
        SweepWorker().prepare(opening)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min-psnr", 30, "--ray", "cluster"), "--ray: got 'cluster', expected HOST:PORT of a cluster, auto for the"),
        (("--min-psnr", 30, "--preset", "a b"), "--preset: got 'a b', expected a name of letters, digits, - and _"),
        (("--min-psnr", 30, "--prompt", "x"), "--prompt: got one, expected at least two: every second one is held out"),
    ],
)
def test_arguments_of_tune_that_are_refused(emoji_bundle, arguments, message):
    assert message in str(invoke(tune_command, emoji_bundle, *arguments).exception)


def test_bundles_without_presets_and_with_damaged_ones(copied, monkeypatch):
    pipe = load(copied)
    with pytest.raises(InputError, match="preset: got 'fast', expected none, since this bundle has no presets; 'diff"):
        pipe.preset("fast")
    monkeypatch.setattr(Bundle, "has", lambda *_: True)
    monkeypatch.setattr(Bundle, "read_object", lambda *_: {"fast": {"arguments": {"callback_on_step_end": 1}}})
    with pytest.raises(BundleError, match="got 'fast' without arguments that a preset may hold, expected only num_inf"):
        pipe.preset("fast")
