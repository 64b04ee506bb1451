"""Pages use the words of diffusers and ONNX, in plain English."""

import re

import pytest
from doc_pages import PAGES

_AVOIDED = re.compile(
    r"\b(pictures?|paint(?:s|ed|ing)?|anew|by itself|in place of|stands? for|whoever|is told|is handed in)\b",
    re.IGNORECASE,
)
"""Words that had to be decoded. "inpainting" is a task of diffusers and is not matched."""


@pytest.mark.parametrize("page", PAGES)
def test_pages_use_plain_words(page: str) -> None:
    lines = PAGES[page].read_text(encoding="utf-8").splitlines()
    found = [f"{page}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if _AVOIDED.search(line)]
    assert found == []
