"""Prompts for calibration, built in or from a user's file, and held-out prompts for judging the result."""

from dataclasses import dataclass
from pathlib import Path

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.prompt_file import read_prompt_file

__all__ = ["CALIBRATION_PROMPTS", "HELD_OUT_PROMPTS", "SeededPrompt", "read_prompts", "seeded_prompts"]

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
"""Ranges and sensitivity are measured on these: things of many shapes and colours that small models know too."""

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
"""The budget is checked on these, with their own seeds. None of them is a built-in prompt of `verify`."""

_FIRST_SEED, _FIRST_HELD_OUT_SEED = 1000, 2000

_EVERY = 3
"""Every third prompt of a user's file is held out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeededPrompt:
    """One image to generate.

    Attributes:
        text: The prompt.
        seed: Seed of torch's CPU generator.
    """

    text: str
    seed: int


def read_prompts(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a text file with one prompt a line, blank lines ignored: prompts for calibration and held-out prompts.

    Raises:
        InputError: It cannot be read, or has fewer than three prompts.
    """
    prompts = read_prompt_file(path, "calibration prompts")
    if len(prompts) < _EVERY:
        raise InputError(
            f"calibration prompts {path}: got {len(prompts)}, expected at least {_EVERY}, one a line: every third is "
            f"held back to judge by; some 50 are better"
        )
    held_out = tuple(prompts[_EVERY - 1 :: _EVERY])
    return tuple(prompt for i, prompt in enumerate(prompts) if i % _EVERY != _EVERY - 1), held_out


def seeded_prompts(prompts: tuple[str, ...], *, held_out: bool = False) -> list[SeededPrompt]:
    """Give each prompt its own seed."""
    first = _FIRST_HELD_OUT_SEED if held_out else _FIRST_SEED
    return [SeededPrompt(text=prompt, seed=first + i) for i, prompt in enumerate(prompts)]
