"""Benchmarks on engines with scripted times: what is counted where, medians, turns, baselines, failures."""

import json

import numpy as np
import pytest

from diffoundry.runtime.bench import BenchRequest, Generation, bench, compare
from diffoundry.runtime.bench.bundle_candidate import BundleCandidate
from diffoundry.runtime.bench.candidate import Load
from diffoundry.runtime.bench.report import BenchReport
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.errors import EngineError, InputError


def _measured(bundle, **request):
    return bench(bundle, BenchRequest(steps=3, **request)).candidates[0].measured


def test_load_counts_the_engines_of_text_to_image(scripted_bundle, script):
    load = _measured(scripted_bundle, repeats=1).load
    assert load.components == {"text_encoder": 0.5, "unet": 2.0, "vae_decoder": 1.0}
    assert load.total == load.open + 3.5 == 3.5
    assert "vae_encoder" not in script.opened


def test_first_image_is_kept_apart_and_warm_ups_are_dropped(scripted_bundle, script):
    # Three steps an image: the first one cold, one to warm up, then two that count.
    script.calls["unet"] = [9.0] * 3 + [7.0] * 3 + [1.0] * 3 + [2.0] * 3
    measured = _measured(scripted_bundle, warmups=1, repeats=2)
    assert measured.first_image == 0.25 + 3 * 9 + 4
    assert (measured.image.min, measured.image.max, measured.image.count) == (7.25, 10.25, 2)
    assert measured.image.median == 8.75
    assert measured.images_per_minute == pytest.approx(60 / 8.75)


def test_steps_medians_and_percentiles(scripted_bundle, script):
    times = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 100.0]
    script.calls["unet"] = [1.0] * 6 + times
    outside = [0.1, 0.9, 0.8, 0.7, 0.2, 0.3, 0.4, 0.5, 0.6]
    script.outside = [0.0] * 6 + list(outside)
    measured = _measured(scripted_bundle, repeats=3)
    assert measured.step.per_image == 3
    assert measured.step.inside.median == 5.0
    assert measured.step.seconds.median == pytest.approx(5.2)
    assert (measured.step.outside.median, measured.step.outside.max) == (pytest.approx(0.5), pytest.approx(0.9))
    assert measured.step.inside.p10 == pytest.approx(np.percentile(times, 10)) == pytest.approx(1.8)
    assert measured.step.inside.p90 == pytest.approx(26.4)
    shares = [o / (t + o) for t, o in zip(times, outside, strict=True)]
    assert measured.step.outside_share == pytest.approx(np.median(shares))
    unet = measured.components["unet"]
    assert (unet.per_image, unet.seconds.count, unet.seconds.median) == (3, 9, 5.0)
    assert measured.components["vae_decoder"].seconds.median == 4.0


def test_inside_and_outside_add_up(scripted_bundle, script):
    rng = np.random.default_rng(0)
    script.calls["unet"] = list(rng.uniform(0.5, 2, 50))
    script.outside = list(rng.uniform(0.01, 0.1, 50))
    measured = _measured(scripted_bundle, repeats=4)
    step = measured.step
    assert step.inside.mean + step.outside.mean == pytest.approx(step.seconds.mean, rel=1e-12)
    calls = sum(one.seconds.mean * one.per_image for one in measured.components.values())
    assert calls + measured.image_outside.mean == pytest.approx(measured.image.mean, rel=1e-12)
    assert measured.image_outside.mean == pytest.approx(3 * step.outside.mean, rel=1e-9)


def test_work_describes_the_generated_image(scripted_bundle):
    report = bench(scripted_bundle, BenchRequest(steps=3, repeats=1, height=24, guidance_scale=1.0))
    assert (report.work.height, report.work.width) == (24, 16)
    assert (report.work.scheduler, report.work.steps) == ("DDIMScheduler", 3)
    assert (report.bundle, report.model) == ("scripted.bundle", None)
    assert report.candidates[0].facts["threads"] == "the library's own choice"


def test_what_engines_say_of_themselves_is_a_fact(scripted_bundle, script):
    script.notes = {name: {"floats": "bf16"} for name in ("text_encoder", "unet", "vae_decoder")}
    script.notes["unet"] |= {"compiled for its size": "each of the first 2 sizes", "Winograd convolutions": 12}
    script.notes["vae_decoder"] |= {"Winograd convolutions": 3}
    facts = bench(scripted_bundle, BenchRequest(steps=1, repeats=1)).candidates[0].facts
    assert facts["floats"] == "bf16"
    assert facts["compiled for its size"] == "unet: each of the first 2 sizes"
    assert facts["Winograd convolutions"] == "unet: 12; vae_decoder: 3"


def test_alone_there_is_no_pause_and_the_observer_is_removed(scripted_bundle, clock):
    request = BenchRequest(steps=2, repeats=1)
    ours = BundleCandidate(scripted_bundle, request)
    compare(ours, (), request)
    assert clock.sleeps == []
    assert ours.pipeline.session.on_call is None


def test_waiting_is_counted_over_our_measured_images(scripted_bundle, monkeypatch):
    times = iter([(1000, 500), (1700, 800), (9000, 9000), (9200, 9000)])  # before and after each of two images
    monkeypatch.setattr("diffoundry.runtime.bench.measure.thread_times", lambda: next(times))
    report = bench(scripted_bundle, BenchRequest(steps=2, repeats=2))
    assert report.waiting == pytest.approx(300 / (700 + 200 + 300))


def test_waiting_is_unknown_where_the_system_does_not_tell(scripted_bundle, monkeypatch):
    monkeypatch.setattr("diffoundry.runtime.bench.measure.thread_times", lambda: None)
    assert bench(scripted_bundle, BenchRequest(steps=2, repeats=1)).waiting is None


def test_report_survives_json(scripted_bundle):
    report = bench(scripted_bundle, BenchRequest(steps=2, repeats=1))
    assert from_json(BenchReport, json.loads(json.dumps(to_json(report)))) == report


@pytest.mark.parametrize(("field", "value"), [("repeats", 0), ("warmups", -1)])
def test_counts_that_measure_nothing_are_refused(field, value):
    with pytest.raises(InputError, match=rf"{field}: got {value}, expected at least"):
        BenchRequest(**{field: value})


class _Baseline:
    """Generates a flat image in scripted time, and notes its turns in a list shared with others."""

    def __init__(self, name, clock, turns, seconds=(2.0,), level=0.5, reference=False, fail=None):
        self.name, self.reference = name, reference
        self._clock, self._turns, self._seconds, self._level, self._fail = clock, turns, list(seconds), level, fail
        self.generated, self.closed = 0, False

    def load(self):
        if self._fail == "load":
            raise EngineError("no compiler")
        return Load(total=1.0, open=1.0, components={})

    def generate(self):
        self._turns.append(self.name)
        if self._fail == self.generated:
            raise EngineError("its process ended")
        self.generated += 1
        seconds = self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0]
        self._clock.advance(seconds)
        image = np.full((1, 16, 16, 3), self._level, np.float32)
        image[0, 0, 0] = 0
        return Generation(
            image=image,
            seconds=seconds,
            steps=(seconds / 2,),
            inside=(seconds / 4,),
            calls={"unet": (seconds / 4,)},
        )

    def facts(self):
        return {"library": "scripted"}

    def peak_rss(self):
        return 12345

    def close(self):
        self.closed = True


@pytest.fixture
def turns(monkeypatch):
    """Candidates that generated, in order, ours included."""
    order = []
    generate = BundleCandidate.generate

    def noted(self):
        order.append("diffoundry")
        return generate(self)

    monkeypatch.setattr(BundleCandidate, "generate", noted)
    return order


def _compare(bundle, baselines, **values):
    request = BenchRequest(steps=2, **values)
    return compare(BundleCandidate(bundle, request), baselines, request)


def test_candidates_take_turns_and_each_round_another_begins(scripted_bundle, clock, turns):
    baselines = [_Baseline("a", clock, turns), _Baseline("b", clock, turns)]
    _compare(scripted_bundle, baselines, warmups=1, repeats=3)
    first, warm, rounds = turns[:3], turns[3:6], turns[6:]
    assert first == warm == ["diffoundry", "a", "b"]
    assert rounds == ["diffoundry", "a", "b", "a", "b", "diffoundry", "b", "diffoundry", "a"]
    assert len(clock.sleeps) == 3 * (2 + 1 + 3 + 1)
    assert all(baseline.closed for baseline in baselines)


def test_ratios_are_theirs_over_ours(scripted_bundle, clock, turns, script):
    script.calls["unet"] = [1.0]  # an image takes 0.25 + 2 * 1 + 4 seconds, a step 1
    baseline = _Baseline("a", clock, turns, seconds=[99, 99, 12.5, 6.25, 25.0])
    report = _compare(scripted_bundle, [baseline], repeats=3).report
    relative = report.candidates[1].measured.relative
    assert relative.image.of_medians == pytest.approx(2.0)
    assert relative.image.p10 == pytest.approx(1.2)
    assert relative.image.p90 == pytest.approx(3.6)
    assert relative.step.of_medians == pytest.approx(6.25)
    assert report.candidates[0].measured.relative is None
    assert report.candidates[1].measured.peak_rss == 12345
    assert report.candidates[1].measured.first_image == 99


def test_distance_is_measured_from_the_reference(scripted_bundle, clock, turns):
    baselines = [
        _Baseline("fp32", clock, turns, level=0.5, reference=True),
        _Baseline("bf16", clock, turns, level=0.6),
        _Baseline("same", clock, turns, level=0.5),
        _Baseline("broken", clock, turns, level=np.nan),
    ]
    comparison = _compare(scripted_bundle, baselines, repeats=1)
    measured = {one.name: one.measured for one in comparison.report.candidates}
    assert measured["fp32"].distance is None
    assert measured["bf16"].distance.max_abs == pytest.approx(0.1)
    assert measured["bf16"].distance.psnr == pytest.approx(20 - 10 * np.log10(255 / 256), abs=1e-4)
    assert (measured["same"].distance.psnr, measured["same"].distance.max_abs) == (None, 0.0)
    assert measured["broken"].distance.max_abs is None
    assert "NaN" in measured["broken"].image_fault
    error = comparison.images["diffoundry"].astype(np.float64) - comparison.images["fp32"]
    assert measured["diffoundry"].distance.psnr == pytest.approx(-10 * np.log10(np.mean(error**2)))


@pytest.mark.parametrize(
    ("fail", "reason"), [("load", "no compiler"), (0, "its process ended"), (3, "its process ended")]
)
def test_a_failing_baseline_is_reported_and_the_others_go_on(scripted_bundle, clock, turns, fail, reason):
    baselines = [_Baseline("bad", clock, turns, fail=fail), _Baseline("good", clock, turns)]
    comparison = _compare(scripted_bundle, baselines, repeats=3)
    ours, bad, good = comparison.report.candidates
    assert (bad.failure, bad.measured) == (reason, None)
    assert ours.measured.image.count == good.measured.image.count == 3
    assert baselines[0].generated == (0 if fail == "load" else fail)
    assert set(comparison.images) == {"diffoundry", "good"}
    assert baselines[0].closed


def test_a_very_slow_baseline_is_measured_once(scripted_bundle, clock, turns, script):
    slow, fast = _Baseline("slow", clock, turns, seconds=[126.0]), _Baseline("fast", clock, turns, seconds=[124.0])
    report = _compare(scripted_bundle, [slow, fast], repeats=3).report  # ours takes 6.25 seconds
    assert report.candidates[1].measured.image.count == 1
    assert report.candidates[1].notes == ("measured once: it takes more than 20 times as long as diffoundry",)
    assert report.candidates[2].measured.image.count == 3
    assert report.candidates[2].notes == ()


def test_our_own_failure_ends_the_benchmark_and_closes_all_candidates(scripted_bundle, clock, turns, script):
    script.fail_at_call = 5
    baseline = _Baseline("a", clock, turns)
    with pytest.raises(EngineError, match="the engine is broken"):
        _compare(scripted_bundle, [baseline])
    assert baseline.closed


def test_progress_counts_every_turn_to_the_end(scripted_bundle, clock, turns):
    told = []
    request = BenchRequest(steps=2, repeats=2)
    compare(
        BundleCandidate(scripted_bundle, request),
        [_Baseline("a", clock, turns, fail="load")],
        request,
        progress=lambda *values: told.append(values),
    )
    assert told[0] == ("diffoundry: loading", 0, 12)
    assert told[-1] == ("done", 12, 12)
    assert [done for _, done, _ in told] == list(range(13))
