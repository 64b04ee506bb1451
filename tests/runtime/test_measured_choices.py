"""Measured choices with a fake clock: medians in turns, files of several processes, damaged files, modes."""

import json

import pytest

from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.native.measured import (
    MeasuredChoices,
    Timing,
    choice_mode,
    choices_folder,
    describe_choices,
    time_in_turns,
)

MACHINE = {"cpu": "a processor", "openvino": "2026.4"}
FAST, SLOW = Timing(native=1.0, engine=2.0), Timing(native=2.0, engine=1.0)


class Clock:
    """Seconds that pass only in the callables of a test."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def taking(self, name, *seconds):
        left = list(seconds)

        def run():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def never():
    raise AssertionError("it was measured already")


def test_medians_of_rounds_in_turns_without_the_first():
    clock = Clock()
    timing = time_in_turns(clock.taking("n", 9.0, 1.0, 5.0, 2.0), clock.taking("e", 9.0, 3.0), clock)
    assert clock.order == ["n", "e"] * 4
    assert timing == Timing(native=2.0, engine=3.0)
    assert timing.native_wins
    clock = Clock()
    time_in_turns(clock.taking("n", 0.001), clock.taking("e", 0.001), clock)
    assert len(clock.order) == 2 * (1 + 9)
    assert not Timing(native=0.98, engine=1.0).native_wins  # within what measurements vary by


def test_a_choice_is_measured_once_and_kept_for_other_processes(tmp_path):
    first = MeasuredChoices(MACHINE, tmp_path)
    assert first.find("a") is None
    assert first.decide("a", lambda: FAST) == FAST
    assert first.decide("a", never) == FAST
    assert MeasuredChoices(MACHINE, tmp_path).decide("a", never) == FAST
    other = MeasuredChoices({**MACHINE, "openvino": "2026.5"}, tmp_path)
    assert other.path != first.path
    assert other.decide("a", lambda: SLOW) == SLOW


def test_what_is_kept_is_described(tmp_path):
    MeasuredChoices(MACHINE, tmp_path).decide("attention b", lambda: SLOW)
    MeasuredChoices({**MACHINE, "openvino": "1"}, tmp_path).decide("attention a", lambda: FAST)
    MeasuredChoices({"cpu": "another"}, tmp_path).decide("attention c", lambda: FAST)
    (tmp_path / "damaged.json").write_text("{")
    assert sorted(describe_choices("a processor", tmp_path)) == [
        "attention a: 0.50 of the engine's time, so our kernel",
        "attention b: 2.00 of the engine's time, so the engine",
    ]
    assert describe_choices("a processor", tmp_path / "none") == []


def test_two_processes_write_one_file(tmp_path):
    one, two = MeasuredChoices(MACHINE, tmp_path), MeasuredChoices(MACHINE, tmp_path)
    assert two.find("b") is None  # read before the other writes
    one.decide("a", lambda: FAST)
    two.decide("b", lambda: SLOW)
    third = MeasuredChoices(MACHINE, tmp_path)
    assert (third.decide("a", never), third.decide("b", never)) == (FAST, SLOW)
    assert [path.name for path in tmp_path.iterdir()] == [third.path.name]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 5000,
        b'{"format": 2}',
        b"x" * 2_000_000,
        {"format": 1, "machine": {"cpu": "another"}, "seconds": {"a": {"native": 1.0, "engine": 2.0}}},
        *(
            {"format": 1, "machine": MACHINE, "seconds": {"a": entry}}
            for entry in (1.0, {"native": 1.0}, {"native": -1.0, "engine": 1.0}, {"native": "1", "engine": 1.0})
        ),
        {"format": 1, "machine": MACHINE, "seconds": {"a": {"native": float("nan"), "engine": 1.0}}},
    ],
    ids=lambda content: repr(content)[:40],
)
def test_a_damaged_file_is_replaced(tmp_path, content):
    choices = MeasuredChoices(MACHINE, tmp_path)
    choices.path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert choices.decide("a", lambda: SLOW) == SLOW
    assert json.loads(choices.path.read_text())["seconds"] == {"a": {"native": 2.0, "engine": 1.0}}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    choices = MeasuredChoices(MACHINE, tmp_path / "file")
    assert choices.decide("a", lambda: FAST) == FAST
    assert choices.decide("a", never) == FAST


def test_modes(monkeypatch, tmp_path):
    monkeypatch.delenv("DIFFOUNDRY_NATIVE", raising=False)
    assert [choice_mode(option) for option in (True, False, "always", "fixed")] == [
        "measured",
        "never",
        "always",
        "fixed",
    ]
    monkeypatch.setenv("DIFFOUNDRY_NATIVE", "fixed")
    assert [choice_mode(option) for option in (True, False, "always")] == ["fixed", "never", "always"]
    monkeypatch.setenv("DIFFOUNDRY_NATIVE", "fast")
    with pytest.raises(
        InputError,
        match="DIFFOUNDRY_NATIVE: got 'fast', expected one of measured, always, never, fixed; or unset it for",
    ):
        choice_mode(True)
    for option in ("fast", 1):
        with pytest.raises(InputError, match=f"native: got {option!r}, expected one of measured, always, never, fixed"):
            EngineOptions(native=option)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert choices_folder() == tmp_path / "diffoundry" / "choices"
