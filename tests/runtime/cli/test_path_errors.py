"""Paths that the system refuses end in one sentence, whatever option they were typed for."""

import os
import sys

import pytest

from diffoundry.runtime.bundle.file_checks import enclosing_bundle
from diffoundry.runtime.cli.group import run
from diffoundry.runtime.cli.output_files import OutputFiles
from diffoundry.runtime.cli.path_errors import path_sentence
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.report.write import check_report_path

LONG = "a" * 300
REMEDY = "cannot be opened (File name too long); check the path and the permissions, or use another"


def _said(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["diffoundry", *arguments])
    with pytest.raises(SystemExit) as caught:
        run()
    return caught.value.code


def test_a_path_that_is_too_long(monkeypatch):
    assert _said(monkeypatch, "inspect", LONG) == f"error: {LONG[:80]}...: {REMEDY}"


def test_the_option_is_named():
    error = OSError(36, "File name too long", LONG)
    for arguments in (["--lora", LONG], ["--lora", f"{LONG}:0.5"], [f"--lora={LONG}"]):
        assert path_sentence(error, ["export", "emoji", *arguments]) == f"--lora {LONG[:80]}...: {REMEDY}"
    assert path_sentence(error, ["export", LONG, "--json"]) == f"{LONG[:80]}...: {REMEDY}"
    assert path_sentence(OSError(5, "Input/output error"), []) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the current folder")
def test_a_current_folder_that_was_deleted(monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    os.rmdir(gone)
    said = path_sentence(FileNotFoundError(2, "No such file or directory"), [])
    assert said == "the current folder: got one that was deleted, expected one that exists; change to another"


def test_nothing_is_written_into_a_bundle(monkeypatch, tmp_path):
    bundle = tmp_path / "x.bundle"
    (bundle / "unet").mkdir(parents=True)
    (bundle / "diffoundry.json").touch()
    assert enclosing_bundle(tmp_path) is None
    assert enclosing_bundle(bundle / "unet" / "new") == bundle
    with pytest.raises(InputError, match=r"unet: got a folder of the bundle .*bundle, expected another; choose one$"):
        OutputFiles(str(bundle / "unet" / "x.png"))
    monkeypatch.chdir(bundle / "unet")
    with pytest.raises(InputError, match=r"^--output \.: got a folder of the bundle .*x\.bundle, expected another"):
        OutputFiles(None)
    with pytest.raises(InputError, match=r"^--html x\.html: got a file of the bundle .*x\.bundle, expected another"):
        check_report_path(type(tmp_path)("x.html"))
