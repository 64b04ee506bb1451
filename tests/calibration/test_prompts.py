"""Prompts: built in, and from a user's file."""

from pathlib import Path

import pytest

from diffoundry.calibration.prompts import CALIBRATION_PROMPTS, HELD_OUT_PROMPTS, read_prompts, seeded_prompts
from diffoundry.exporter.verify.prompts import PROMPTS
from diffoundry.runtime.errors import InputError


def test_held_out_prompts_are_others_than_those_of_calibration_and_of_verify():
    assert len(CALIBRATION_PROMPTS) == 32
    assert len(set(HELD_OUT_PROMPTS)) == 16
    things = {prompt.split(" ", 1)[1] for prompt in (*CALIBRATION_PROMPTS, *HELD_OUT_PROMPTS)}
    assert len(things) == 48
    assert not things & set(PROMPTS)


def test_no_two_images_have_a_seed_in_common():
    prompts = [*seeded_prompts(CALIBRATION_PROMPTS), *seeded_prompts(HELD_OUT_PROMPTS, held_out=True)]
    assert len({prompt.seed for prompt in prompts}) == len(prompts)


def test_every_third_prompt_of_a_file_is_held_back(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\n two \nthree\nfour\nfive\nsix\nseven\n", encoding="utf-8-sig")
    assert read_prompts(path) == (("one", "two", "four", "five", "seven"), ("three", "six"))


def test_too_few_prompts_are_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"prompts.txt: got 2, expected at least 3, one a line"):
        read_prompts(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"calibration prompts .*prompts.txt: cannot be read .*a text file in UTF-8"):
        read_prompts(path)
