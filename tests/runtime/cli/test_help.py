"""Help texts and argument errors: grouped, with examples, helpful, and without importing PyTorch or ONNX."""

import json
import re
import subprocess
import sys

import pytest

from diffoundry.runtime.cli.group import COMMANDS
from diffoundry.runtime.suggest import did_you_mean

_HEAVY = ("torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript")

_PROGRAM = f"""
import importlib, json, os, sys
from diffoundry.runtime.cli.group import COMMANDS
from diffoundry.runtime.cli.main import main

for reference, _ in COMMANDS.values():
    importlib.import_module(reference.partition(":")[0])

def type_words(folder, words):
    os.chdir(folder)
    os.dup2(os.open("text", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    os.chdir(os.path.join(folder, "empty"))
    sys.argv = ["diffoundry", *words]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    with open("../end", "w") as file:
        json.dump(dict(code=code, heavy=[name for name in {_HEAVY} if name in sys.modules]), file)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            type_words(*json.loads(line))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    print(flush=True)
"""
"""Imports all commands, which takes longest, and then starts a process for each that is typed."""


@pytest.fixture(scope="module")
def starter():
    """The process that starts the others."""
    command = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def typed(starter, tmp_path):
    """Run a command in a process of its own, in an empty folder; gives its text and how it ended."""
    (tmp_path / "empty").mkdir()

    def run(*words):
        for name in ("text", "end"):
            (tmp_path / name).unlink(missing_ok=True)
        print(json.dumps([str(tmp_path), [str(word) for word in words]]), file=starter.stdin, flush=True)
        assert starter.stdout.readline() == "\n"
        return (tmp_path / "text").read_text(), json.loads((tmp_path / "end").read_text())

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_help_groups_options_and_ends_with_examples(typed, command):
    text, end = typed(command, "--help")
    assert end == {"code": 0, "heavy": []}
    titles = [line for line in text.splitlines() if line and not line.startswith(" ") and line.endswith(":")]
    assert titles[-2:] == ["Other options:", "Examples:"]
    assert "Output:" in titles
    examples = text.partition("\nExamples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(f"  diffoundry {command}") for line in examples)


def test_help_of_export_and_generate_names_each_group_once(typed):
    expected = {
        "export": ["Checkpoint:", "Engines:", "Sizes:", "Quantization:", "Output:"],
        "generate": ["Image:", "Prompt:", "Image to image and inpainting:", "ControlNet:", "Memory:", "Engine:"],
    }
    for command, titles in expected.items():
        lines = typed(command, "--help")[0].splitlines()
        assert [lines.count(title) for title in titles] == [1] * len(titles)


def test_the_top_level_ends_with_something_to_try(typed):
    text, end = typed("--help")
    assert end == {"code": 0, "heavy": []}
    assert "Try:\n  diffoundry export emoji --target onnxruntime -o emoji.bundle\n" in text


def test_an_unknown_command_suggests_the_nearest(typed):
    text, end = typed("genrate")
    assert end == {"code": 2, "heavy": []}
    assert "No such command 'genrate'. Did you mean 'generate'?" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "export --target onnxrt",
            "--target: got 'onnxrt', expected one of coreml, .* mean 'onnxruntime'",
        ),
        (
            "export emoji --target coreml --precision fp8 -o x",
            "--precision: got 'fp8', which coreml does not compile, ",
        ),
        ("verify {bundle} --html no/such/x.html", "--html no/such/x.html: its folder no/such does not exist"),
        ("bench {bundle} --html .", "--html .: is a folder, expected a file such as report.html"),
        ("export --modle emoji -o x", r"No such option '--modle'\. Did you mean '--model'\?"),
        ("export emoji -o x", "Missing option '--target'. Installed here: .*onnxruntime"),
        ("export --target onnxruntime -o x", "Missing argument 'MODEL': a diffusers folder"),
        ("export emoji --model sd15 --target onnxruntime -o x", "MODEL: got 'emoji' and --model 'sd15', expected one"),
        ("export emoji -x --target coreml -o x", "No such option '-x'"),
        ("build", "Missing argument 'DIR'"),
        ("export --target onnxruntime --precision fp61", r"--precision: got 'fp61', expected one of fp32, .* 'fp16'\?"),
        ("export --target onnxruntime --width 12x", "--width: got '12x', expected a number such as 512"),
        ("export --target onnxruntime --buckets 5", "--buckets: got '5', expected WIDTHxHEIGHT"),
        (
            "export --target onnxruntime --buckets 64x64 --width 64",
            "--buckets: got --height or --width as well, expected one of the two",
        ),
        ("export --target onnxruntime --max-size big", "--max-size: got 'big', expected a size such as 500MB"),
        ("export emoji --target onnxruntime -o .", "--output .: exists and is no bundle|--output .: exists already"),
        ("export --target onnxruntime --model emojy", r"no folder or file 'emojy' here, .* Did you mean 'emoji'\?"),
        ("export --target onnxruntime --lora no.safetensors", "--lora: got 'no.safetensors', which is no file"),
        ("build {bundle} --target onnxrt", "--target: got 'onnxrt', expected one of"),
        ("build {bundle} --precision fp16", "--target: got none with --precision or options of a target"),
        ("build nowhere", "bundle nowhere: got nothing there, expected a folder made by 'diffoundry export'"),
        ("verify nowhere", "bundle nowhere: got nothing there, expected a folder made by 'diffoundry export'"),
        ("verify {bundle} --precision fp17", "got no engine for fp17, the bundle holds onnxruntime fp32"),
        (
            "verify {bundle} --target openvino",
            "got no engine for openvino, the bundle holds onnxruntime fp32; .* of those$",
        ),
        ("verify {bundle} --target openvinoo", r"for openvinoo, .* one of those\. Did you mean 'openvino'\?$"),
        ("generate {bundle} x --target openvinoo", r"for openvinoo, .* one of those\. Did you mean 'openvino'\?$"),
        ("bench {bundle} --target openvinoo", r"for openvinoo, .* one of those\. Did you mean 'openvino'\?$"),
        ("verify {bundle} --against emojy", "no folder or file 'emojy' here"),
        ("verify {bundle} --full --seed 3", "--full: got --prompt, --prompts or --seed as well"),
        ("compare {bundle} --precision fp17", "got no engine for fp17, the bundle holds onnxruntime fp32"),
        ("compare {bundle} --engine coreml", "--engine: got 'coreml', expected TARGET=MODULE:FUNCTION"),
        ("verify {bundle} --num-inference-steps 0", "value for '--num-inference-steps': 0 is not in the range"),
        ("bench nowhere --num-inference-steps x", "value for '--num-inference-steps': 'x' is not a valid integer"),
        ("bench {bundle} --num-inference-steps 0", "error: --num-inference-steps: got 0, expected a whole number"),
        ("bench {bundle} --guidance-scale nan", "error: --guidance-scale: got nan, expected a finite number"),
        ("bench {bundle} --steps 0", "error: --steps: got 0, expected"),
        ("bench nowhere", "bundle nowhere: got nothing there, expected a folder made by 'diffoundry export'"),
        ("generate {bundle}", "PROMPT: got none, expected a text after DIR"),
        ("deploy {bundle} --to tritn -o x", "--to: got 'tritn', expected one of triton, .* Did you mean 'triton'"),
        ("targets onnxrt", "target: got 'onnxrt', expected one of .* Did you mean 'onnxruntime'"),
    ],
)
def test_arguments_are_checked_before_heavy_imports(typed, emoji_bundle, words, message):
    words = words.format(bundle=emoji_bundle).split()
    if words[0] == "export" and "-o" not in words:
        words = ["export", *([] if "--model" in words else ["--model", "emoji"]), *words[1:], "-o", "new.bundle"]
    text, end = typed(*words)
    text += end["code"] if isinstance(end["code"], str) else ""
    assert end["heavy"] == []
    assert end["code"] not in (0, None)
    assert re.search(message, text), text


def test_a_mistyped_path_is_no_network_error(typed, tmp_path):
    (tmp_path / "empty/checkpoints/apples").mkdir(parents=True)
    _, end = typed("export", "--model", "checkpoints/aples", "--target", "onnxruntime", "-o", "new.bundle")
    assert end["code"] == (
        "error: model 'checkpoints/aples': no folder checkpoints/aples here, although checkpoints exists; check the "
        "path. Did you mean 'checkpoints/apples'?"
    )


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("fp61", " Did you mean 'fp16'?"),
        ("FP16", " Did you mean 'fp16'?"),
        ("xyz", ""),
        ("--modle", " Did you mean '--model'?"),
        ("--colour", ""),
    ],
)
def test_suggestions(word, expected):
    assert did_you_mean(word, ["fp32", "fp16", "bf16", "--model", "--lora"]) == expected
