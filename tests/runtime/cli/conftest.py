"""Fixture: commands as a user types them."""

import sys

import pytest

from diffoundry.runtime.cli.main import main


@pytest.fixture
def typed(monkeypatch, capsys):
    """Run a command in this process; gives its exit code or sentence, and both streams."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["diffoundry", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
