"""Cases of parametrized tests that `slow_cases` leaves to `make test-slow`."""

import subprocess
import sys
from pathlib import Path

HOOK = """
import pytest
from slow_cases import mark_slow_cases

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    mark_slow_cases(items, whole=not any("::" in word for word in config.args))
"""

TESTS = """
import pytest

@pytest.mark.slow_cases({patterns})
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("model", ["sd1", "xl"])
def test_it(model, target):
    pass
"""


def collect(folder, patterns, *arguments):
    """Return the exit code and the output of a collection of four cases without the slow ones."""
    (folder / "conftest.py").write_text(HOOK)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    slow_cases\n")
    (folder / "test_it.py").write_text(TESTS.format(patterns=patterns))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    path = {"PYTHONPATH": str(Path(__file__).parent / "support"), "PATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run([*command, *arguments], cwd=folder, env=path, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_cases_that_match_are_slow(tmp_path):
    code, text = collect(tmp_path, "'*-openvino', 'xl-*'")
    assert code == 0, text
    assert [line for line in text.splitlines() if "::" in line] == ["test_it.py::test_it[sd1-onnxruntime]"]


def test_a_pattern_that_matches_no_case_is_refused(tmp_path):
    code, text = collect(tmp_path, "'*-openvino', 'sd3-*'")
    assert code == 4
    assert "test_it: slow_cases: 'sd3-*' matches none of ['sd1-onnxruntime'" in text


def test_one_case_by_name_is_no_reason_to_refuse(tmp_path):
    code, text = collect(tmp_path, "'*-openvino'", "test_it.py::test_it[xl-onnxruntime]")
    assert code == 0, text
    assert "test_it[xl-onnxruntime]" in text
