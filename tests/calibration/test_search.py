"""The search against trying everything, on made-up units whose errors add up."""

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

from diffoundry.calibration.options import choose_options
from diffoundry.calibration.prompts import SeededPrompt
from diffoundry.calibration.quality import Budget, Quality, decibels, judge, mean_square
from diffoundry.calibration.search import search
from diffoundry.calibration.units import QuantizationPlan, Unit, rank
from diffoundry.runtime.bundle.quantization import ComponentChoice
from diffoundry.runtime.errors import InputError

SEARCHED, HELD_OUT = [SeededPrompt(text="a", seed=0)], [SeededPrompt(text="b", seed=1)]

_INT8 = (7 / 127) ** 2


@dataclass
class World:
    """Units with known errors and worths, and an error that is always there. Counts what it is asked."""

    units: list[Unit]
    errors: dict[Unit, float]
    floor: float = 0.0
    harder: float = 1.0
    """How much larger errors are on the held-out images."""
    asked: list[str] = field(default_factory=list)

    def error(self, choices) -> float:
        total = self.floor
        for unit in self.units:
            choice = choices[unit.component]
            if unit.nodes[0] in choice.fallback:
                total += self.errors[unit] * _INT8
            elif unit.nodes[0] in choice.quantized:
                total += self.errors[unit]
        return total

    def quality(self, choices, prompts) -> Quality:
        self.asked.append("held out" if prompts == HELD_OUT else "searched")
        return judge([self.error(choices) * (self.harder if prompts == HELD_OUT else 1)])

    def size(self, choices) -> int:
        saved = 0.0
        for unit in self.units:
            choice = choices[unit.component]
            if unit.nodes[0] in choice.fallback:
                saved += unit.intermediate
            elif unit.nodes[0] in choice.quantized:
                saved += unit.saving
        return 1_000_000 - int(saved)

    def unit_errors(self, units):
        self.asked.append("costs")
        return {unit: self.errors[unit] for unit in units}


def world(seed: int = 0, count: int = 12, int4: bool = False, **options) -> World:
    rng = np.random.default_rng(seed)
    units, errors = [], {}
    for i in range(count):
        saving = float(rng.integers(1_000, 60_000))
        middle = saving * 6 / 7 if int4 else None
        unit = Unit(component="unet" if i % 3 else "vae", nodes=(f"n{i}",), saving=saving, intermediate=middle)
        units.append(unit)
        errors[unit] = float(10 ** rng.uniform(-7, -3))
    return World(units, errors, **options)


def plan_of(some: World) -> QuantizationPlan:
    return QuantizationPlan(units=some.units, base={"unet": ComponentChoice(observer="mse"), "vae": ComponentChoice()})


def found_with(some: World, **budget):
    return search("int8", plan_of(some), Budget(**budget), some, SEARCHED, HELD_OUT)


def lost(some: World, choices) -> float:
    return sum(u.saving for u in some.units if u.nodes[0] not in choices[u.component].quantized)


def test_where_everything_is_good_enough_nothing_is_measured():
    some = world()
    found = found_with(some, min_psnr=20)
    assert some.asked == ["held out"]
    assert sum(len(choice.quantized) for choice in found.choices.values()) == 12
    assert found.choices["unet"].observer == "mse"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("psnr", [35, 45, 55])
def test_the_budget_is_kept_and_hardly_more_is_lost_than_trying_everything_would(seed, psnr):
    some = world(seed)
    found = found_with(some, min_psnr=psnr)
    assert found.quality.mean >= psnr
    assert found.quality == some.quality(found.choices, HELD_OUT)
    best = min(
        sum(unit.saving for unit in kept)
        for count in range(len(some.units) + 1)
        for kept in itertools.combinations(some.units, count)
        if decibels(sum(some.errors[unit] for unit in some.units if unit not in kept)) >= psnr
    )
    # A beginning of a ranked list is at most one unit away from the best choice by saving.
    assert lost(some, found.choices) <= best + max(unit.saving for unit in some.units)


def test_the_fewest_moves_that_will_do_are_made():
    some = world(1)
    found = found_with(some, min_psnr=50)
    moves = rank(some.errors)
    kept = [name for choice in found.choices.values() for name in choice.kept]
    assert sorted(kept) == sorted(move.unit.nodes[0] for move in moves[: len(kept)])
    fewer = plan_of(some).choices(moves[: len(kept) - 1])
    assert some.quality(fewer, HELD_OUT).mean < 50


def test_layers_kept_in_float_are_reported_with_the_error_they_would_cause():
    some = world(1)
    found = found_with(some, min_psnr=50)
    for unit in some.units:
        kept = found.choices[unit.component].kept
        if unit.nodes[0] in kept:
            assert kept[unit.nodes[0]] == pytest.approx(decibels(some.errors[unit]), abs=0.01)


def test_held_out_images_that_are_harder_have_the_last_word():
    some = world(2, harder=2.0)
    found = found_with(some, min_psnr=50)
    assert some.quality(found.choices, HELD_OUT).mean >= 50
    easier = found_with(world(2), min_psnr=50)
    assert lost(some, found.choices) >= lost(some, easier.choices)


@pytest.mark.parametrize("int4", [False, True])
def test_with_a_size_alone_as_much_stays_fine_as_fits(int4):
    some = world(3, int4=int4)
    smallest = some.size(plan_of(some).choices())
    limit = (1_000_000 + smallest) // 2
    found = found_with(some, max_size=limit)
    assert found.size <= limit
    moves = rank(some.errors)
    made = sum(len(c.kept) + len(c.fallback) for c in found.choices.values())
    assert made
    one_more = next(m for m in moves if m.unit.nodes[0] in found.choices[m.unit.component].quantized)
    assert found.size + one_more.cost > limit or one_more.to == "float"


def test_int4_goes_back_to_int8_before_it_goes_back_to_float():
    some = world(4, int4=True)
    found = found_with(some, min_psnr=45)
    assert sum(len(choice.fallback) for choice in found.choices.values())
    assert not any(choice.kept for choice in found.choices.values())
    for choice in found.choices.values():
        assert set(choice.fallback) <= set(choice.quantized)


def test_a_size_below_the_smallest_is_refused_with_the_smallest_size():
    with pytest.raises(
        InputError,
        match=r"max-size: got 5 bytes for int8, expected at least \d\d\d,\d\d\d: .* with \d+\.\d dB .*ask for more",
    ):
        found_with(world(), max_size=5)


def test_a_quality_that_only_float_has_is_refused_with_the_best_quality():
    some = world(floor=1e-5)
    with pytest.raises(
        InputError,
        match=r"min-psnr: got a budget of image PSNR of at least 60 dB for int8.*reached (49|50)\.\d dB.*bytes; ask",
    ):
        found_with(some, min_psnr=60)


def test_both_limits_that_contradict_each_other_are_refused():
    some = world(5)
    smallest = some.size(plan_of(some).choices())
    with pytest.raises(InputError, match=r"image PSNR of at least 60 dB and at most .* bytes for int8.*reached"):
        found_with(some, min_psnr=60, max_size=smallest + 10)


def test_both_limits_that_agree_are_kept():
    some = world(5)
    found = found_with(some, min_psnr=45, max_size=999_999)
    assert found.quality.mean >= 45
    assert found.size <= 999_999


def test_half_floats_stay_in_float32_by_name():
    some = world(6)
    plan = QuantizationPlan(
        units=some.units,
        base={"unet": ComponentChoice(float32=("big",), kept={"big": 0.0}), "vae": ComponentChoice()},
        floats=True,
    )
    moves = rank(some.errors)[:4]
    choices = plan.choices(moves)
    names = [move.unit.nodes[0] for move in moves if move.unit.component == "unet"]
    assert set(choices["unet"].float32) == {"big", *names}
    assert choices["unet"].kept.keys() == {"big", *names}
    assert choices["unet"].quantized == ()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"min_psnr": 0.0}, "min-psnr: got 0.0"),
        ({"min_psnr": 120.0}, "min-psnr: got 120.0"),
        ({"max_size": 0}, "max-size: got 0"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(limits, words):
    with pytest.raises(InputError, match=words):
        Budget(**limits)


def test_one_bad_image_breaks_a_budget_that_the_mean_keeps():
    budget = Budget(min_psnr=30)
    assert budget.fits(Quality(mean=30, worst=24))
    assert not budget.fits(Quality(mean=40, worst=23.9))
    assert not budget.fits(Quality(mean=29.9, worst=29.9))


def test_quality_is_psnr_of_images():
    rng = np.random.default_rng(0)
    images = rng.random((2, 8, 8, 3)).astype(np.float32)
    other = images.copy()
    other[1] += 0.1
    quality = judge(mean_square(other, images))
    assert quality.worst == pytest.approx(20, abs=1e-3)
    assert quality.mean == pytest.approx((20 + 120) / 2, abs=1e-3)
    other[0, 0, 0, 0] = np.nan
    assert judge(mean_square(other, images)).worst == 0


@dataclass
class Tastes:
    """Trials where each observer, and smoothing, has a quality of its own."""

    observers: dict[str, float]
    smoothing: float

    def quality(self, choices, _prompts) -> Quality:
        (choice,) = choices.values()
        gain = self.smoothing if choice.smooth else 0
        return Quality(mean=self.observers[choice.observer] + gain, worst=0)


@pytest.mark.parametrize(("gain", "smoothed"), [(0.4, {}), (0.6, {"n0": 0.5})])
def test_the_best_observer_is_taken_and_smoothing_only_where_it_pays(gain, smoothed):
    tastes = Tastes({"minmax": 40, "percentile": 42, "mse": 41.9, "entropy": 30}, gain)
    unit = Unit(component="unet", nodes=("n0",), saving=1)
    messages: list[str] = []
    plan = QuantizationPlan(units=[unit], base={"unet": ComponentChoice()})
    chosen = choose_options(plan, tastes, SEARCHED, {"unet": ["n0"]}, messages.append)
    assert chosen.base["unet"].observer == "percentile"
    assert chosen.base["unet"].smooth == smoothed
    assert chosen.choices()["unet"].quantized == ("n0",)
    assert len(messages) == 5
