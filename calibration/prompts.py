"""The prompts that calibration generates, built in or from a user's file, and those held back to judge by."""

from pathlib import Path

from diffoundry.calibration.tasks import Case
from diffoundry.runtime.errors import InputError

__all__ = ["CALIBRATION_PROMPTS", "HELD_OUT_PROMPTS", "cases_of", "read_prompts"]

CALIBRATION_PROMPTS = (
    "a grinning face",
    "a fox",
    "a unicorn",
    "an elephant",
    "a penguin",
    "an owl",
    "a frog",
    "a tropical fish",
    "an octopus",
    "a butterfly",
    "a sunflower",
    "a palm tree",
    "a mushroom",
    "a watermelon",
    "a pineapple",
    "an avocado",
    "a hamburger",
    "a birthday cake",
    "a wine glass",
    "a volcano",
    "a castle",
    "a locomotive",
    "a racing car",
    "an airplane",
    "a crescent moon",
    "a snowflake",
    "a basketball",
    "a handbag",
    "a violin",
    "a camera",
    "an envelope",
    "a microscope",
)
"""Ranges and sensitivity come from these: things of many shapes and colours that small models know too."""

HELD_OUT_PROMPTS = (
    "a robot",
    "a tiger face",
    "a koala",
    "a turtle",
    "a crab",
    "a rose",
    "a strawberry",
    "a doughnut",
    "a ferris wheel",
    "a fire engine",
    "a helicopter",
    "an umbrella",
    "a trophy",
    "a running shoe",
    "a trumpet",
    "a green book",
)
"""A budget is kept on these, with seeds of their own. None of them is a built-in prompt of `verify`."""

_FIRST_SEED, _FIRST_HELD_OUT_SEED = 1000, 2000

_EVERY = 3
"""Of a user's file every third prompt is held back."""


def read_prompts(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompts of a text file, one a line, blank lines left out: those to calibrate with and those held back.

    Raises:
        InputError: It cannot be read, or has fewer than three prompts.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"calibration prompts {path}: cannot be read ({error}); expected UTF-8 text") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if len(prompts) < _EVERY:
        raise InputError(
            f"calibration prompts {path}: got {len(prompts)}, expected at least {_EVERY}, one a line: every third is "
            f"held back to judge by; some 50 are better"
        )
    held_out = tuple(prompts[_EVERY - 1 :: _EVERY])
    return tuple(prompt for i, prompt in enumerate(prompts) if i % _EVERY != _EVERY - 1), held_out


def cases_of(prompts: tuple[str, ...], *, held_out: bool = False) -> list[Case]:
    """A case for every prompt, each with a seed of its own."""
    first = _FIRST_HELD_OUT_SEED if held_out else _FIRST_SEED
    return [Case(prompt=prompt, seed=first + i) for i, prompt in enumerate(prompts)]
