"""Cleaning of prompts against diffusers' `IFPipeline`, with stand-ins for the two optional packages."""

import re
from types import SimpleNamespace

import diffusers
import pytest
from diffusers.pipelines.deepfloyd_if import pipeline_if

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.systems import captions
from diffoundry.runtime.pipelines.systems.captions import prepare_captions

CAPTIONS = [
    "  A Red APPLE  ",
    "a+photo%20of <person> on https://example.com/a/b and www.shop.co.uk, or www:shop",
    "<b>bold</b> by @somebody_1 &quot;quoted&quot; &amp;amp; \u00bbso\u00ab \u2018x\u2019",
    "dashes \u2014 and \u2010 and \u58a8 \u4e00 \u3220 \u33a1 \u31c1 \u31f2 \u3400 \u4dc0",
    "server 192.168.10.1 at 12:30  ",
    "line\\nbreak #123 #123456 1234567 photo.png ''' \"\"\" ... ***SOLD*** [x] {y} (z) a . b",
    "this-is-my-cute-cat this_is_my_cute_dog",
    "well-known",
    "jc6640 ab12cd 6640vc231 free shipping worldwide free shipping free download free",
    "click here: click for more png image page 12 j2d1a2a 10x20 3.5\u00d74",
    "word : other,next.one/two   spaces",
    "'quoted'",
    "_leading and trailing-",
    ".hidden",
    "",
]


@pytest.fixture
def packages(monkeypatch):
    """Both packages, for us and for diffusers."""

    class Soup:
        def __init__(self, markup, features):
            assert features == "html.parser"
            self.text = re.sub(r"<[^>]*>", "", markup).replace("&quot;", '"')

    modules = {"bs4": SimpleNamespace(BeautifulSoup=Soup), "ftfy": SimpleNamespace(fix_text=lambda text: f"{text}")}
    monkeypatch.setattr(captions, "_find", modules.get)
    monkeypatch.setattr(pipeline_if, "BeautifulSoup", Soup, raising=False)
    monkeypatch.setattr(pipeline_if, "ftfy", modules["ftfy"], raising=False)
    for name in ("is_bs4_available", "is_ftfy_available"):
        monkeypatch.setattr(pipeline_if, name, lambda: True)
    return modules


def diffusers_captions(clean):
    return object.__new__(diffusers.IFPipeline)._text_preprocessing(CAPTIONS, clean_caption=clean)


@pytest.mark.parametrize("clean", [True, False, None])
def test_captions_are_diffusers(packages, clean):
    expected = diffusers_captions(clean is not False)
    assert prepare_captions(CAPTIONS, clean) == expected
    lowered = [text.lower().strip() for text in CAPTIONS]
    changed = [one != two for one, two in zip(expected, lowered, strict=True)]
    assert sum(changed) == (0 if clean is False else len(CAPTIONS) - 3)


@pytest.mark.parametrize("missing", ["bs4", "ftfy"])
def test_without_a_package_prompts_are_lowered_unless_cleaning_is_asked_for(packages, missing):
    del packages[missing]
    assert prepare_captions(["  A Red+Apple "], None) == ["a red+apple"]
    package = {"bs4": "beautifulsoup4", "ftfy": "ftfy"}[missing]
    with pytest.raises(InputError, match=f"clean_caption: got True, but the package {package} is not installed; run"):
        prepare_captions(["a cat"], True)
