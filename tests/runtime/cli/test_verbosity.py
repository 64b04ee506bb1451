"""--verbose, --quiet, their variables, and progress where nobody looks."""

import logging

from diffoundry.runtime.cli import status_line
from diffoundry.runtime.cli.console import set_quiet
from diffoundry.runtime.cli.status_line import StatusLine

_GENERATE = ("--steps", "1", "--seed", "7", "--target", "onnxruntime")


def test_verbose_logs_and_prints_the_traceback(typed, emoji_bundle, tmp_path):
    words = ("generate", emoji_bundle, "x", *_GENERATE, "-o", tmp_path / "x.png")
    code, out, err = typed(*words, "--verbose")
    assert code == 0
    assert f"diffoundry.runtime.engines.session: unet: opening {emoji_bundle / 'unet'}" in err
    assert "opening" not in out
    code, _, err = typed("--verbose", "inspect", tmp_path / "none")
    assert "Traceback" in err
    assert code.startswith("error: bundle ")
    _, _, err = typed(*words)
    assert "opening" not in err
    assert "Traceback" not in typed("inspect", tmp_path / "none")[2]
    assert logging.getLogger("diffoundry").level == logging.NOTSET


def test_quiet_prints_results_alone(typed, emoji_bundle, tmp_path, monkeypatch):
    words = ("inspect", emoji_bundle)
    loud, quiet = typed(*words), typed(*words, "--quiet")
    assert "--full shows" in loud[2]
    assert quiet == (0, loud[1], "")
    assert typed("-q", *words) == quiet
    monkeypatch.setenv("DIFFOUNDRY_QUIET", "1")
    assert typed(*words) == quiet
    monkeypatch.setenv("DIFFOUNDRY_QUIET", "0")
    assert typed(*words) == loud


def test_variables_are_defaults_that_options_override(typed, emoji_bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFOUNDRY_TARGET", "abacus")
    monkeypatch.setenv("DIFFOUNDRY_THREADS", "1")
    code, _, _ = typed("generate", emoji_bundle, "x", "--steps", "1", "-o", tmp_path / "x.png")
    assert "got no engine for abacus" in code
    code, _, _ = typed("export", "emoji", "-o", tmp_path / "b")
    assert "--target: got 'abacus', expected one of" in code
    assert typed("generate", emoji_bundle, "x", *_GENERATE, "-o", tmp_path / "x.png")[0] == 0
    assert "[env var: DIFFOUNDRY_TARGET]" in " ".join(typed("export", "--help")[1].split())


def test_a_log_has_a_line_in_ten_seconds_and_no_spinner(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(status_line.time, "monotonic", lambda: now[0])
    with StatusLine() as line:
        for second in range(25):
            now[0] = 100.0 + second
            line.update(f"int8: {second} of 25 prompts")
        line.keep("1/2 calibration: done")
    assert capsys.readouterr().err.splitlines() == [
        "int8: 0 of 25 prompts",
        "int8: 10 of 25 prompts",
        "int8: 20 of 25 prompts",
        "1/2 calibration: done",
    ]
    set_quiet(quiet=True)
    try:
        with StatusLine() as line:
            line.keep("1/2 calibration: done")
    finally:
        set_quiet(quiet=False)
    assert capsys.readouterr().err == ""
