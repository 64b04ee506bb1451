"""One clear error out of what the library logs: on messages recorded from TensorRT for RTX 1.7."""

import json
from pathlib import Path

import pytest

from diffoundry.targets.tensorrt.failures import build_failure, clean, parse_failure

RECORDED = json.loads((Path(__file__).parent / "recorded/messages.json").read_text())


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        (
            "types",
            "Cannot compile for target(s) sm75, because the model contains HW-specific datatypes: b16.",
            "build for later GPUs only (--compute-capabilities), or choose another --precision",
        ),
        (
            "driver",
            "MyelinCheckException: graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.",
            "it needs an NVIDIA driver",
        ),
        (
            "lean",
            "cannot open shared object file: No such file or directory",
            "the lean runtime is missing: pip install",
        ),
        (
            "profile",
            "Network has dynamic or shape inputs, but no optimization profile has been defined.",
            "'polygraphy debug reduce' finds the smallest graph that fails",
        ),
    ],
)
def test_a_builders_error_is_freed_of_echo_and_position_and_gets_a_hint(name, text, hint):
    failure = build_failure([RECORDED[name], RECORDED["echo"], RECORDED[name]])
    assert failure.message.endswith(text)
    assert "/_src/" not in failure.message
    assert "cudaError 35" not in failure.message
    assert failure.hint.startswith(hint)
    assert not failure.cancelled


def test_a_missing_driver_stays_where_it_is_the_cause():
    said = clean([RECORDED["load"], RECORDED["echo"]])
    assert said == ["(cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"]


def test_a_node_at_the_head_of_the_message_is_named():
    failure = build_failure([RECORDED["mixed"].replace("node_of_y", "down_blocks.0/attn1/Mul")])
    assert failure.node == "down_blocks.0/attn1/Mul"
    assert "casts nothing implicitly" in failure.hint


@pytest.mark.parametrize("messages", [[], [RECORDED["echo"]]])
def test_a_build_without_a_word_says_so(messages):
    assert build_failure(messages).message == "the builder gave no engine and logged no error"


def test_a_cancelled_build_is_told_apart():
    failure = build_failure([RECORDED["cancelled"]])
    assert failure.cancelled
    assert failure.message == "Build canceled by user"


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("operator", "unsupported node (checkDynamicQuantizeLinear)", "'polygraphy inspect capability' lists what"),
        ("antialias", "Antialiasing is not supported currently.", "TensorRT resizes without antialiasing only"),
        ("plugin", "Plugin not found, are the plugin name, version, and namespace correct?", "the operator is not of"),
        ("zero point", "shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.", "quantize symmetrically"),
        ("mixed", "Invalid Node - node_of_y", "the graph mixes types, and TensorRT casts nothing implicitly"),
    ],
)
def test_a_parsers_error_has_operator_and_reason(name, message, hint):
    given = RECORDED["parser"][name]
    failure = parse_failure("", *given[1:])
    assert failure.node is None
    assert parse_failure("a/node", *given[1:]).node == "a/node"
    assert failure.operator == given[1]
    assert failure.message.startswith(message)
    assert "cudaError 35" not in failure.message
    assert failure.hint.startswith(hint)
