"""Output of the command line: hostile strings, streams that cannot take it, and early interruption."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from diffoundry.runtime.cli.safe_text import safe_json, safe_text
from diffoundry.runtime.cli.verbosity import reset_verbosity

_HOSTILE = "[/nope][bold]\x1b]0;owned\x07 \x9b31m\u202egnp.exe :smile:"

_SHOWN = r"[/nope][bold]\x1b]0;owned\x07 \x9b31m\u202egnp.exe :smile:"


def _edit(bundle, change):
    path = bundle / "diffoundry.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.fixture
def hostile_bundle(emoji_bundle, tmp_path):
    """A bundle with escape codes and markup in the strings of its manifest."""
    bundle = tmp_path / "a [bold]b[/nope].bundle"
    shutil.copytree(emoji_bundle, bundle)

    def change(manifest):
        manifest["diffoundry"] = _HOSTILE
        manifest["built_with"] = {_HOSTILE: _HOSTILE}
        manifest["recipe"]["model"] = _HOSTILE
        for component in manifest["components"].values():
            for engine in component["engines"]:
                engine["metadata"] = {_HOSTILE: _HOSTILE}
                engine["inputs"][0]["name"] = _HOSTILE

    _edit(bundle, change)
    return bundle


@pytest.mark.parametrize("words", [(), ("--full",), ("--json",), ("--check",)], ids=" ".join)
def test_strings_of_a_bundle_reach_the_terminal_as_escapes(typed, hostile_bundle, words):
    code, out, err = typed("inspect", hostile_bundle, *words)
    assert code == 0, err
    for text in (out, err):
        assert not any(mark in text for mark in ("\x1b", "\x07", "\x9b", "\u202e", "\ud83d"))
    if "--json" in words:
        assert json.loads(out)["manifest"]["recipe"]["model"] == _HOSTILE
    elif words != ("--check",):
        assert f"model      {_SHOWN}" in out
        assert "a [bold]b[/nope].bundle" in out


def test_warnings_of_the_log_are_escaped(capsys):
    reset_verbosity()
    logger = logging.getLogger("diffoundry.runtime.test")
    logger.warning("warning: %s has no manifest", "a\x1b[31m [bold]b")
    logger.info("hidden")
    assert capsys.readouterr().err == "warning: a\\x1b[31m [bold]b has no manifest\n"


def test_error_messages_are_escaped(typed, tmp_path):
    code, _, _ = typed("inspect", tmp_path / "no\x1b[31msuch")
    assert r"no\x1b[31msuch" in code


def test_text_that_prints_stays():
    text = "naïve café 苹果 🍎 👩‍🚀\tx\ny"
    assert safe_text(text) == text
    assert safe_text(f"{_HOSTILE} \ud83d") == rf"{_SHOWN} \ud83d"
    half = f"{_HOSTILE}{text}\ud83d"
    for ascii_only in (True, False):
        assert json.loads(safe_json({"a": half}, ascii_only=ascii_only)) == {"a": half}


def _start(*words, **options):
    program = "from diffoundry.runtime.cli.main import main; main()"
    return subprocess.Popen([sys.executable, "-c", program, *map(str, words)], text=True, **options)


@pytest.mark.slow_cases("words0", "words1")
@pytest.mark.parametrize("words", [("inspect", "{bundle}"), ("inspect", "{bundle}", "--json"), ("--help",)])
def test_streams_that_do_not_take_the_output(emoji_bundle, tmp_path, words):
    words = [word.format(bundle=emoji_bundle) for word in words]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words += [] if "--help" in words else ["--quiet"]
    plain = _start(*words, env=ascii_only, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = plain.communicate(timeout=60)
    assert (plain.returncode, err) == (0, "")
    assert out.isascii()
    if "--json" in words:
        json.loads(out)
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            ended = _start(*words, stdout=full, stderr=subprocess.PIPE)
            assert ended.communicate(timeout=60)[1] == (
                "error: standard output cannot be written (No space left on device); free some space, or write it "
                "elsewhere\n"
            )
        assert ended.returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interruption_while_modules_are_imported_is_one_word(tmp_path):
    program = (
        "import sys\n"
        "from diffoundry.runtime.cli.main import main\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'diffoundry.runtime.cli.group':\n"
        "            print('importing', flush=True)\n"
        "            import time\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "main()\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "importing\n"
    time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=30)[1] == "interrupted\n"
    assert run.returncode == 130
