"""Shell completion, through click's own interface: commands, options, and the words that options take."""

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from diffoundry.runtime.cli.group import COMMANDS, group


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "ex", ["export"]),
        ([], "", list(COMMANDS)),
        (["export"], "--prec", ["--precision"]),
        (["export", "--target"], "onn", ["onnxruntime"]),
        (["export", "--target"], "openvino,onn", ["openvino,onnxruntime"]),
        (["export", "--target"], "openvino,op", []),
        (["export", "--precision"], "int8", ["int8", "int8-weights"]),
        (["build", "x.bundle", "--precision"], "bf16,fp1", ["bf16,fp16"]),
        (["generate", "x.bundle", "--target"], "tensorrt", ["tensorrt", "tensorrt-rtx"]),
        (["generate", "x.bundle", "--precision"], "bf", ["bf16"]),
        (["generate", "x.bundle", "--scheduler"], "Eul", ["EulerAncestralDiscrete", "EulerDiscrete"]),
        (["generate", "x.bundle", "--scheduler"], "euler", ["euler", "euler_a"]),
        (["generate", "x.bundle", "--hint"], "la", ["latency"]),
        (["targets"], "open", ["openvino"]),
        (["set", "x.bundle"], "scheduler=dpmpp_2m", ["scheduler=dpmpp_2m", "scheduler=dpmpp_2m_sde"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_words_are_completed(words, incomplete, expected):
    complete = ShellComplete(group, {}, "diffoundry", "_DIFFOUNDRY_COMPLETE")
    found = [item.value for item in complete.get_completions(words, incomplete)]
    assert found[: len(expected)] == expected
    assert bool(found) == bool(expected)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_prints_a_script(shell):
    run = subprocess.run(
        [sys.executable, "-c", "from diffoundry.runtime.cli.main import main; main()"],
        env={**os.environ, "_DIFFOUNDRY_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "_DIFFOUNDRY_COMPLETE=" + f"{shell}_complete" in run.stdout
