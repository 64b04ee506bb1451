"""`diffoundry bench`: what it prints, as a table, as JSON and as HTML, and how it ends when something is wrong."""

import json
import re

import pytest
from click.testing import CliRunner

from diffoundry.runtime.bench import BenchRequest, Generation, bench
from diffoundry.runtime.bench.candidate import Load
from diffoundry.runtime.bench.report import BenchReport, ImageDistance
from diffoundry.runtime.bundle.json_codec import from_json
from diffoundry.runtime.cli import bench as bench_command
from diffoundry.runtime.cli.bench import command
from diffoundry.runtime.cli.bench_view import distance_words, duration
from diffoundry.runtime.errors import EngineError, InputError, MissingExtraError


class _Rival:
    reference = True

    def __init__(self, name, failure=None):
        self.name, self._failure = name, failure

    def load(self):
        if self._failure:
            raise EngineError(self._failure)
        return Load(total=1.0, open=1.0, components={})

    def generate(self):
        import numpy as np

        image = np.random.default_rng(0).random((1, 16, 16, 3), dtype=np.float32)
        return Generation(image=image, seconds=8.0, steps=(1.5,), inside=(1.25,), calls={"unet": (1.25,)})

    def facts(self):
        return {"library": "torch 9"}

    def peak_rss(self):
        return None

    def close(self):
        pass


@pytest.fixture
def rivals(monkeypatch):
    """Baselines found by `--against`, and their arguments."""
    asked = []

    def find(bundle, request, names, *, threads):
        asked.append((request, names, threads))
        return [_Rival("PyTorch fp32"), _Rival("PyTorch compiled", "InvalidCxxCompiler: no compiler")]

    monkeypatch.setattr(bench_command, "resolve", lambda _reference: find)
    return asked


def _run(*arguments, code=0):
    result = CliRunner(env={"COLUMNS": "160"}).invoke(command, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_json_is_the_report_and_nothing_else(scripted_bundle):
    result = _run(scripted_bundle, "--json", "--steps", 2, "--repeats", 2, "--prompt", "ghost", "--seed", 9)
    report = from_json(BenchReport, json.loads(result.stdout))
    assert (report.work.steps, report.work.repeats, report.work.prompt, report.work.seed) == (2, 2, "ghost", 9)
    assert report.candidates[0].measured.step.seconds.median == 1.0


def test_table_shows_medians_and_the_machine(scripted_bundle):
    result = _run(scripted_bundle, "--steps", 2, "--repeats", 2)
    words = " ".join(result.stdout.split())
    assert re.search(
        "diffoundry target onnxruntime, library onnxruntime.* [0-9.]+, precision as exported, device cpu", words
    )
    assert " image, warm 6.25 s (6.25–6.25) " in words
    assert " step, outside engines 0.00 µs (0.00–0.00) " in words
    assert " unet, one call 1.00 s (1.00–1.00) " in words
    assert "instructions" in words
    assert "times ours" not in words
    assert "loading" in result.stderr or "done" in result.stderr


def test_against_hands_over_request_names_and_threads(scripted_bundle, rivals):
    result = _run(scripted_bundle, "--steps", 2, "--repeats", 1, "--against", "torch", "--threads", 2)
    request, names, threads = rivals[0]
    assert (request, names, threads) == (BenchRequest(steps=2, repeats=1), ("torch",), 2)
    words = " ".join(result.stdout.split())
    assert " 1.28 x " in words
    assert "PyTorch compiled: not measured: InvalidCxxCompiler: no compiler" in result.stderr


def test_html_holds_images_figures_and_remarks(scripted_bundle, rivals, tmp_path):
    page = tmp_path / "report.html"
    result = _run(scripted_bundle, "--steps", 2, "--repeats", 2, "--against", "torch", "--html", page, "--json")
    report = json.loads(result.stdout)
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/png') == 2
    assert "6.25 s (6.25–6.25)" in text
    assert "no compiler" in text
    assert report["machine"]["cpu"] in text
    psnr = report["candidates"][0]["measured"]["distance"]["psnr"]
    assert f"{psnr:.1f} dB" in text


def test_a_missing_report_extra_is_reported_before_measuring(scripted_bundle, monkeypatch, script):
    def missing():
        raise MissingExtraError("an HTML report", "jinja2", "report")

    monkeypatch.setattr(bench_command, "require_report", missing)
    result = _run(scripted_bundle, "--html", "x.html", code=1)
    assert isinstance(result.exception, MissingExtraError)
    assert script.opened == []


def test_a_missing_torch_is_reported_before_measuring(scripted_bundle, monkeypatch, script):
    monkeypatch.setattr("diffoundry.exporter.reference.baseline.importlib.util.find_spec", lambda _name: None)
    result = _run(scripted_bundle, "--against", "torch", code=1)
    assert isinstance(result.exception, MissingExtraError)
    assert script.opened == []


def test_a_wrong_size_ends_in_the_pipeline_s_sentence(scripted_bundle):
    result = _run(scripted_bundle, "--height", 30, code=1)
    assert isinstance(result.exception, InputError)
    assert "height: got 30, expected a multiple of 8" in str(result.exception)


def test_a_report_of_a_broken_image_says_so(scripted_bundle, monkeypatch):
    monkeypatch.setattr("diffoundry.runtime.bench.report.describe_image_fault", lambda _image: "one colour")
    assert bench(scripted_bundle, BenchRequest(steps=1, repeats=1)).candidates[0].measured.image_fault == "one colour"
    assert "diffoundry: one colour" in _run(scripted_bundle, "--steps", 1, "--repeats", 1).stderr


@pytest.mark.parametrize(("waited", "warned"), [(40, False), (100, True)])
def test_a_busy_machine_is_reported_first(scripted_bundle, monkeypatch, tmp_path, waited, warned):
    times = iter([(0, 0), (1000, waited)])
    monkeypatch.setattr("diffoundry.runtime.bench.measure.thread_times", lambda: next(times))
    page = tmp_path / "report.html"
    result = _run(scripted_bundle, "--steps", 1, "--repeats", 1, "--html", page)
    warning = "other programs were at work: our threads waited 9% of their time for a processor"
    assert (warning in result.stderr) == warned
    if warned:
        assert result.output.index(warning) < result.output.index("image, warm")
    assert (f'<p class="verdict fail">{warning}' in page.read_text(encoding="utf-8")) == warned


def test_a_single_candidate_has_one_plot_of_all_its_parts(scripted_bundle, rivals, tmp_path):
    page = tmp_path / "report.html"
    quick = ("--steps", 1, "--repeats", 1, "--html", page)
    _run(scripted_bundle, *quick)
    alone = page.read_text(encoding="utf-8")
    assert "diffoundry, one step, inside engines: 1000 ms" in alone
    assert "diffoundry, unet, one call: 1000 ms" in alone
    _run(scripted_bundle, *quick, "--against", "torch")
    assert "one step, PyTorch fp32: 1500 ms" in page.read_text(encoding="utf-8")


def test_options_have_the_names_of_diffusers_too(scripted_bundle):
    result = _run(scripted_bundle, "--num-inference-steps", 2, "--repeats", 1, "--negative-prompt", "red", "--json")
    work = json.loads(result.stdout)["work"]
    assert (work["steps"], work["negative_prompt"]) == (2, "red")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.00 µs"),
        (2.5e-6, "2.50 µs"),
        (0.00099949, "999 µs"),
        (0.0009996, "1.00 ms"),
        (0.0123456, "12.3 ms"),
        (0.5, "500 ms"),
        (1.0, "1.00 s"),
        (99.96, "100 s"),
    ],
)
def test_durations_have_three_digits(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("distance", "words"),
    [
        (None, "–"),
        (ImageDistance(psnr=None, max_abs=0.0), "identical"),
        (ImageDistance(psnr=None, max_abs=None), "not a number"),
        (ImageDistance(psnr=46.84, max_abs=0.1), "46.8 dB"),
    ],
)
def test_distances_in_words(distance, words):
    assert distance_words(distance) == words
