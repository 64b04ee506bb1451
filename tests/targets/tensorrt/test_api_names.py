"""Every name of the vendor's modules that the code or the fakes touch is there: in RTX 1.7, and in TensorRT 11.4."""

import ast
import inspect
import json
from pathlib import Path

import fake_trt
import pytest
from api_names import BACKEND, ONLY_RTX, USED, members, mentioned, present
from fake_cuda import FakeCuda, Kind, Mode, Status

HERE = Path(__file__).parent
TENSORRT = json.loads((HERE / "recorded/api_tensorrt_11_4.json").read_text())
CUDA = json.loads((HERE / "recorded/api_cuda_13_5.json").read_text())

NOT_THE_VENDORS = {
    "dtype", "file", "flags", "itemsize", "log", "logger", "metadata", "name", "node", "numpy", "parse", "refittable",
    "shape", "size", "type", "update",
    "FLOAT", "INT32", "INT64", "UINT8",  # of ONNX's types
}  # fmt: skip
"""Attributes of our own or of other libraries that happen to be called as some member of the classes in the table."""


def test_the_table_is_what_the_code_touches(rtx):
    attributes, direct = mentioned()
    assert direct - {"__version__"} <= set(USED)
    listed = set().union(*members(USED).values())
    theirs = set().union(*({m for m in dir(getattr(rtx.trt, name)) if not m.startswith("_")} for name in USED))
    assert (attributes & theirs) - listed <= NOT_THE_VENDORS
    by_name = {"SM75", "SM80", "SM86", "SM89", "SM120", "SM121", *members(USED)["BuilderFlag"]}
    by_name |= members(USED)["EngineInvalidityDiagnostics"] | {"phase_start", "phase_finish", "step_complete", "log"}
    assert listed - attributes <= by_name


def test_tensorrt_for_rtx_has_all_of_it(rtx):
    assert {name: set(found) for name, found in present(rtx.trt).items()} == members(USED)


def test_tensorrt_has_all_but_what_only_rtx_has():
    expected = members(USED)
    for name, words in members(ONLY_RTX).items():
        expected[name] = expected[name] - words if words else set()
    found = {name: set(words) for name, words in TENSORRT["names"].items()}
    assert found == {name: words for name, words in expected.items() if words or name in found}
    assert TENSORRT["version"] == "11.4.0.106"


FAKES = [
    kind
    for name, kind in inspect.getmembers(fake_trt, inspect.isclass)
    if kind.__module__ == "fake_trt" and name != "FakeTrt"
]


@pytest.mark.parametrize("fake", FAKES, ids=lambda kind: kind.__name__)
def test_the_fake_library_has_nothing_that_the_real_one_lacks(rtx, fake):
    real = getattr(rtx.trt, fake.__name__)
    own = {name for name in vars(fake) if not name.startswith("_")}
    assert {name for name in own if not hasattr(real, name)} == set()
    for name in own:
        theirs, ours = getattr(real, name).__doc__ or "", getattr(fake, name)
        if inspect.isfunction(ours):
            given = list(inspect.signature(ours).parameters)[1:]
            assert all(f"{parameter}:" in theirs for parameter in given), (name, given, theirs[:200])


def test_the_fake_of_cuda_has_only_names_of_cuda():
    functions = {name for name in vars(FakeCuda) if name.startswith("cuda")}
    assert functions <= set(CUDA["functions"])
    for name, kind in {"cudaError_t": Status, "cudaMemcpyKind": Kind, "cudaStreamCaptureMode": Mode}.items():
        assert {member.name: int(member) for member in kind}.items() <= CUDA["enumerations"][name].items()


def test_every_function_of_cuda_that_is_called_is_one():
    called = {
        node.args[0].value
        for path in BACKEND.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        if str(node.args[0].value).startswith("cuda") and "." not in str(node.args[0].value)
    }
    assert len(called) > 12
    assert {name for name in called if not name.startswith("cudaError")} <= set(CUDA["functions"])
