"""Plain words: docstrings begin with a verb or a noun, and the project's terms are used everywhere."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

QUESTIONS = "What|Where|Which|Who|Whose|How|Whether"

PHRASES = (
    "is told",
    "is given",
    "is handed in",
    "in place of",
    "stand for",
    "stands for",
    "anew",
    "by itself",
    "of strangers",
    "whoever",
    "lets be seen",
    "what runs now",
    "got it without",
)
"""Phrases that hide the actor or the parameter."""


def tracked(*endings: str) -> list[Path]:
    """Tracked files outside tests/ with one of these endings."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in done.stdout.split("\0") if name.endswith(endings) and not name.startswith("tests/")]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those of constants included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def faults_in(text: str) -> list[str]:
    """Faults of one docstring, in words."""
    found = [f"begins with {first.group()}" for first in [re.match(rf"\s*({QUESTIONS})\b", text)] if first]
    found += [match.group().strip() for match in re.finditer(rf"(?m)^\s+\*{{0,2}}\w+: ({QUESTIONS})\b", text)]
    flat = " ".join(text.split())
    return found + [phrase for phrase in PHRASES if re.search(rf"\b{phrase}\b", flat, re.IGNORECASE)]


def test_docstrings_use_plain_words():
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {fault}"
        for path in tracked(".py")
        for line, text in docstrings(path.read_text(encoding="utf-8"))
        for fault in faults_in(text)
    ]
    assert faults == []


TRAINED_TEXT = 'f"Picture {index + 1}: '
"""In the prompts of Qwen-Image-Edit, as the model was trained with it."""


def test_images_are_generated():
    """diffusers and the vendors say image and generate; "inpaint" and "RePaint" are their own words."""
    word = re.compile(r"(?<![A-Za-z])(pictur|paint)", re.IGNORECASE)
    faults = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked(".py", ".md")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if word.search(line.replace(TRAINED_TEXT, ""))
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("What a target is.", "begins with What"),
        ("Whether it runs here.", "begins with Whether"),
        ("Opens a file.\n\n    Args:\n        path: Where it lies.\n    ", "path: Where"),
        ("Opens a file that stands\n    for another.", "stands for"),
        ("Told by\n    whoever asks.", "whoever"),
    ],
)
def test_faults_are_found(text, fault):
    assert faults_in(text) == [fault]


def test_plain_words_pass():
    assert faults_in("Whatever it holds, open it.\n\n    Args:\n        path: Path of the file.\n    ") == []
