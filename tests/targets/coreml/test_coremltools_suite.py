"""coremltools' own operator tests with the interpreter in Core ML's place: expected values that nobody here wrote."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

TESTS = "coremltools.converters.mil.mil.ops.tests"

LAYERS = tuple(
    f"iOS14.test_{name}"
    for name in ("conv", "linear", "normalization", "image_resizing", "tensor_transformation", "scatter_gather")
)

OURS = (
    "padding_mode or (smoke and (InstanceNorm or LayerNorm or BatchNorm or Linear or Matmul or Reshape or Transpose or "
    "SliceByIndex or ExpandDims or Upsample or TestGather))"
)

QUICK = {
    # name: (modules, which of their tests, how many at least ran)
    "compressed weights": (("iOS16.test_constexpr_ops",), "not sparse", 20),
    "quantization": (("iOS17.test_quantization",), "smoke", 8),
    "attention": (("iOS18.test_transformers",), "compare or to_backend or stress", 10),
    "layers": (LAYERS, OURS, 50),
}

FULL = {"iOS14": 2500, "iOS15": 10, "iOS16": 500, "iOS17": 3000, "iOS18": 2000}

SUPPORT = Path(__file__).parents[2] / "support"


def run(modules, tmp_path, *options):
    """Run tests of coremltools in a process of their own; how many passed, and the names of those that failed."""
    report = tmp_path / "report.xml"
    environment = os.environ | {
        "PYTHONPATH": str(SUPPORT),
        "PYMIL_TEST_TARGETS": "mlprogram",
        "INCLUDE_MIL_FP32_UNIT_TESTS": "1",
    }
    subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "coreml_interpreter.coremltools_suite", "-c", os.devnull,
            f"--junitxml={report}", "--pyargs", *(f"{TESTS}.{module}" for module in modules), *options,
        ],
        env=environment, cwd=tmp_path, check=False, capture_output=True,
    )  # fmt: skip
    cases = ET.parse(report).getroot().iter("testcase")  # written by the line above
    results = {f"{case.get('classname')}::{case.get('name')}": {child.tag for child in case} for case in cases}
    failed = [name for name, tags in results.items() if tags & {"failure", "error"}]
    return sum(not tags & {"failure", "error", "skipped"} for tags in results.values()), failed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="there Core ML itself answers")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "quantization" else pytest.mark.slow) for name in QUICK]
)
def test_expected_values_of_apples_tests(tmp_path, name):
    modules, which, least = QUICK[name]
    passed, failed = run(modules, tmp_path, "-k", which)
    assert failed == []
    assert passed >= least


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform == "darwin", reason="there Core ML itself answers")
@pytest.mark.parametrize("module", FULL)
def test_expected_values_of_all_of_apples_tests(tmp_path, module):
    passed, failed = run((module,), tmp_path)
    assert failed == []
    assert passed >= FULL[module]
