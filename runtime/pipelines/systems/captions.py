"""Cleaning of prompts as DeepFloyd IF cleaned its captions: links, markup, signs and words that say nothing.

diffusers: `IFPipeline._text_preprocessing` and `_clean_caption`, after the original code of
https://github.com/deep-floyd/IF. It needs two packages, beautifulsoup4 and ftfy, which are optional.
"""

import html
import importlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import unquote_plus

from diffoundry.runtime.errors import InputError

__all__ = ["prepare_captions"]

_PACKAGES = {"bs4": "beautifulsoup4", "ftfy": "ftfy"}
"""Module to the package that has it."""

_DOMAIN = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"

_BEFORE_MARKUP = (
    ("<person>", "person"),
    (rf"\b((?:https?:(?:\/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN}))", ""),
    (rf"\b((?:www:(?:\/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN}))", ""),
)

_SIGNS = (
    (r"@[\w\d]+\b", ""),  # names of users
    *((rf"[{block}]+", "") for block in (
        "\u31c0-\u31ef", "\u31f0-\u31ff", "\u3200-\u32ff", "\u3300-\u33ff", "\u3400-\u4dbf", "\u4dc0-\u4dff",
        "\u4e00-\u9fff",
    )),  # CJK
    (  # dashes
        (
            r"[\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0\uFE31"
            r"\uFE32\uFE58\uFE63\uFF0D]+"
        ), "-",
    ),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # addresses
    (r"\d:\d\d\s+$", ""),  # numbers of articles
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (r"[\S]+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    ("[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~" + r"\)\(\]\[\}\{\|\\\/\*]{1,}", " "),
    (r"\s+\.\s+", " "),
)  # fmt: skip

_JOINTS = re.compile(r"(?:\-|\_)")
"""Between words of a name; more than three become spaces."""

_WORDS = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    ("\\b\\d+\\.?\\d*[x\u0445\u00d7]\\d+\\.?\\d*\\b", ""),  # sizes
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
)


def prepare_captions(texts: Sequence[str], clean: bool | None) -> list[str]:
    """Return prompts as the text encoder of DeepFloyd IF was trained to read them.

    Args:
        texts: The prompts.
        clean: True cleans them, twice. False only strips and lowers them. None cleans them if both packages are
            installed, which is what diffusers does by default.

    Raises:
        InputError: They shall be cleaned, and a package is missing.
    """
    if clean is None:
        clean = not any(_find(module) is None for module in _PACKAGES)
    return [_clean(_clean(text)) if clean else text.lower().strip() for text in texts]


def _clean(text: str) -> str:
    text = _replace(unquote_plus(text).strip().lower(), _BEFORE_MARKUP)
    text = _replace(_require("bs4").BeautifulSoup(text, features="html.parser").text, _SIGNS)
    if len(_JOINTS.findall(text)) > 3:
        text = _JOINTS.sub(" ", text)
    text = html.unescape(html.unescape(_require("ftfy").fix_text(text)))
    return _replace(text, _WORDS).strip()


def _replace(text: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _require(module: str) -> Any:
    found = _find(module)
    if found is None:
        package = _PACKAGES[module]
        raise InputError(
            f"clean_caption: got True, but the package {package} is not installed; run 'pip install {package}', or "
            f"leave it out for prompts in lower case"
        )
    return found


@cache
def _find(module: str) -> Any:
    """Import a module, or return None."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
