"""`diffoundry verify` and `compare` as typed: exit codes, the table, JSON and the HTML report."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from diffoundry.exporter.cli.compare import command as compare_command
from diffoundry.exporter.cli.verify import command
from diffoundry.runtime.cli import console
from diffoundry.runtime.cli.main import main
from diffoundry.runtime.errors import InputError
from tests.exporter.verify.conftest import EditableBundle

_QUICK = ("--prompt", "red apple", "--steps", "2", "--threads", "1")


def _run(*arguments):
    program = "from diffoundry.runtime.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "verify", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


@pytest.mark.slow
def test_a_broken_bundle_exits_with_1_after_everything_is_printed(copied, tmp_path):
    copied.edit_json("scheduler/scheduler_config.json", beta_end=0.01201)
    html = tmp_path / "report.html"
    done = _run(copied.path, *_QUICK, "--html", html)
    assert done.returncode == 1
    checks, _, variants = done.stdout.partition(" engines ")
    rows = [line for line in checks.splitlines() if line.startswith(" FAIL")]
    assert "beta_end: got 0.01201, expected 0.012" in rows[0]
    assert not [line for line in checks.splitlines() if line.startswith(" ok")]
    assert " FAIL  onnxruntime fp32 " in variants
    last = done.stdout.splitlines()[-1]
    assert last.startswith("FAILED: ")
    assert last.endswith(
        f"{copied.path} is not the model emoji. First fault: scheduler DDIMScheduler: beta_end: got 0.01201, expected "
        f"0.012; text_encoder, unet, vae_encoder and vae_decoder are right"
    )
    page = html.read_text()
    assert page.count("<img ") == 3
    assert page.count('class="gate fail"') == len(rows) + 1, "the overview says it too"
    assert "Traceback" not in done.stderr


def test_a_changed_file_ends_in_one_sentence(copied, monkeypatch, capfd):
    path = copied.path / "unet/model.onnx_data"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["diffoundry", "verify", str(copied.path), *_QUICK])
    with pytest.raises(SystemExit) as ended:
        main()
    line = str(ended.value.code)  # printed by Python, which then exits with 1
    assert line.startswith("error: ")
    assert "\n" not in line
    assert "unet/model.onnx_data has SHA-256" in line
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err


def test_a_true_bundle_as_json(emoji_bundle):
    result = CliRunner().invoke(command, [str(emoji_bundle), *_QUICK, "--seed", "3", "--json"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["passed"] is True
    assert data["settings"] == {
        "prompts": ["red apple"], "seeds": [3], "steps": 2, "guidance_scale": 7.5, "height": 64, "width": 64,
        "example_inputs": [], "example_scale": 1, "arguments": {"num_inference_steps": 2, "guidance_scale": 7.5},
        "arrays": {}, "sized": True, "watch": False,
    }  # fmt: skip
    assert len(data["variants"][0]["loops"][0]["curve"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompts", "0"), "0 is not in the range 1<=x<=16"),
        (("--steps", "0"), "0 is not in the range x>=1"),
    ],
)
def test_wrong_usage(arguments, message):
    result = CliRunner().invoke(command, ["emoji.bundle", *arguments])
    assert result.exit_code == 2
    assert message in result.output


_OPENER = "diffoundry.targets.onnxruntime.run.engine:OnnxRuntimeEngine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--full", "--seed", "3"), "--full: got --prompt, --prompts or --seed as well, expected --full alone"),
        (("--full", "--prompt", "x"), "--full: got --prompt, --prompts"),
        (("--engine", "coreml"), "--engine: got 'coreml', expected TARGET=MODULE:FUNCTION"),
        (("--engine", "coreml=module"), "--engine: got 'coreml=module', expected TARGET=MODULE:FUNCTION"),
        (("--engine", "coreml=no_such_module:f"), "--engine coreml=no_such_module:f: No module named 'no_such_module'"),
        (("--engine", "coreml=json:no_such"), "--engine coreml=json:no_such: module 'json' has no attribute"),
    ],
)
def test_options_that_cannot_be_followed_are_refused_before_any_work(arguments, message):
    with pytest.raises(InputError, match=message):
        command.main(["emoji.bundle", *arguments], standalone_mode=False)


def test_full_is_all_prompts_from_two_seeds(monkeypatch, emoji_bundle):
    seen = []

    def stop(bundle, checkpoint, request, progress):
        seen.append(request)
        raise InputError("seen")

    monkeypatch.setattr("diffoundry.exporter.verify.run.verify", stop)
    for arguments in (("--full",), (), ("--prompts", "3", "--seed", "4", "--seed", "5")):
        with pytest.raises(InputError, match="seen"):
            command.main([str(emoji_bundle), *arguments], standalone_mode=False)
    assert [len(request.prompts) for request in seen] == [16, 2, 3]
    assert [request.seeds for request in seen] == [(0, 1), (0,), (4, 5)]


def _tiny(exported, tiny_sd_checkpoint):
    return exported(tiny_sd_checkpoint("sd1-small"), precision="fp32,fp16")


_TWO_WORDS = ("--prompt", "a", "--steps", "1", "--threads", "1")


@pytest.mark.slow
def test_several_precisions_are_a_line_each(exported, tiny_sd_checkpoint, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = CliRunner().invoke(command, [str(_tiny(exported, tiny_sd_checkpoint)), *_TWO_WORDS])
    assert result.exit_code == 0
    rows = [line for line in result.stdout.splitlines() if line.startswith(" ok") and " onnxruntime fp" in line]
    assert ["fp32" in row for row in rows] == [True, False]
    assert result.stdout.splitlines()[-1].startswith("passed: all ")


@pytest.mark.slow
def test_failures_of_several_precisions_are_distinguished(exported, tiny_sd_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(console.out, "_width", 160)
    copied = EditableBundle(Path(shutil.copytree(_tiny(exported, tiny_sd_checkpoint), tmp_path / "b.bundle")))
    copied.edit_weight("vae_decoder", "decoder.conv_out.weight", lambda array: array.__imul__(0.8))
    result = CliRunner().invoke(command, [str(copied.path), *_TWO_WORDS])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    (title,) = (index for index, line in enumerate(lines) if line.strip() == "onnxruntime fp32")
    end = next(index for index, line in enumerate(lines) if " engines " in line)
    assert not any(line.startswith(" ok") for line in lines[title:end])
    assert any("vae_decoder sample" in line for line in lines[title:])
    assert "FAILED: " in lines[-1]
    assert "(onnxruntime fp32)" in lines[-1]
    assert "First fault: vae_decoder/model.onnxruntime.onnx: decoder.conv_out.weight: 432 of 432 weights" in lines[-1]
    assert lines[-1].endswith("text_encoder, unet and vae_encoder are right")
    again = CliRunner().invoke(command, [str(copied.path), *_TWO_WORDS, "--precision", "fp32", "--all-checks"])
    results = [line[:5].strip() for line in again.stdout.splitlines() if line[:5] in (" ok  ", " FAIL")]
    assert {"ok", "FAIL"} <= set(results)


def test_compare_prints_two_matrices_and_writes_the_page(exported, tiny_sd_checkpoint, tmp_path):
    bundle, html = _tiny(exported, tiny_sd_checkpoint), tmp_path / "engines.html"
    given = [str(bundle), *_TWO_WORDS, "--html", str(html), "--engine", f"onnxruntime={_OPENER}"]
    result = CliRunner().invoke(compare_command, given)
    assert result.exit_code == 0
    assert "PSNR of the worst image, dB" in result.stdout
    assert "3 onnxruntime fp16" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("passed: 3 participants agree")
    assert html.read_text().count("<img ") == 3


def test_compare_as_json(exported, tiny_sd_checkpoint):
    bundle = _tiny(exported, tiny_sd_checkpoint)
    result = CliRunner().invoke(compare_command, [str(bundle), *_TWO_WORDS, "--precision", "fp16", "--json"])
    data = json.loads(result.stdout)
    assert [participant["name"] for participant in data["participants"]] == ["diffusers fp32", "onnxruntime fp16"]
    assert data["passed"] is True


def test_compare_exits_with_1_when_engines_disagree(exported, tiny_sd_checkpoint, tmp_path):
    copied = EditableBundle(Path(shutil.copytree(_tiny(exported, tiny_sd_checkpoint), tmp_path / "b.bundle")))
    copied.edit_weight("vae_decoder", "decoder.conv_out.weight", lambda array: array.__imul__(0.8))
    result = CliRunner().invoke(compare_command, [str(copied.path), *_TWO_WORDS])
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert "do not agree" in result.stdout.splitlines()[-1]
    assert "First fault: diffusers fp32 | onnxruntime fp32: PSNR, dB" in result.stdout.splitlines()[-1]
