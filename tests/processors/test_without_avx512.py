"""Engines, commands and native code on a processor without AVX-512 give what they give on this one.

The bundle is exported here and runs there, on an Intel Haswell that QEMU emulates.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffoundry.exporter.verify.checks.gates import gates_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "support" / "run_engines.py"
COMMAND = ("-c", "from diffoundry.runtime.cli.main import main; main()")
TARGETS = ("onnxruntime", "openvino")


def error(got, expected):
    """RMS of the difference over the RMS of what is expected."""
    return float(np.sqrt(np.mean((got.astype(np.float64) - expected) ** 2) / np.mean(expected.astype(np.float64) ** 2)))


def psnr(got, expected):
    return float(-10 * np.log10(np.mean((got.astype(np.float64) - expected) ** 2)))


@pytest.fixture(scope="module")
def outside(quantized_bundle, tmp_path_factory):
    """Factory: outputs of the components and an image on this processor."""
    folder = tmp_path_factory.mktemp("outside")

    def run(target, precision):
        file = folder / f"{target}-{precision}.npz"
        if not file.is_file():
            subprocess.run([sys.executable, SCRIPT, quantized_bundle, target, precision, file], check=True)
        return np.load(file)

    return run


@pytest.fixture
def inside(haswell, quantized_bundle, tmp_path):
    """Factory: the same on the emulated processor."""

    def run(target, precision):
        haswell(SCRIPT, quantized_bundle, target, precision, tmp_path / "inside.npz")
        return np.load(tmp_path / "inside.npz")

    return run


def test_precisions_of_floats_that_it_lacks_are_not_offered(haswell):
    code = (
        "import json; from diffoundry.runtime.engines.plugins import find_plugin;"
        f"print(json.dumps([find_plugin(name).load('precisions')('cpu') for name in {TARGETS}]))"
    )
    onnxruntime, openvino = json.loads(haswell("-c", code))
    assert openvino == ["fp32", "int8", "int8-weights", "int4-weights"]
    assert "fp32" in onnxruntime
    assert "bf16" not in onnxruntime


@pytest.mark.parametrize("target", TARGETS)
def test_numbers_in_fp32_are_the_same(inside, outside, target):
    there, here = inside(target, "fp32"), outside(target, "fp32")
    assert set(there.files) == set(here.files)
    for name in here.files:
        assert error(there[name], here[name]) <= gates_for("fp32").relative_rms, name


@pytest.mark.parametrize("target", TARGETS)
def test_int8_is_near_fp32_without_vnni(inside, outside, target):
    """Without VNNI two products are added in 16 bits, which saturates: int8 is up to twice as far from fp32."""
    there, here, exact = inside(target, "int8"), outside(target, "int8"), outside("onnxruntime", "fp32")
    gates = gates_for("int8")
    for name in set(exact.files) - {"image"}:
        assert error(there[name], exact[name]) <= gates.relative_rms, name
    assert psnr(there["image"], exact["image"]) >= gates.image_psnr
    assert psnr(there["image"], exact["image"]) >= psnr(here["image"], exact["image"]) - 6


@pytest.mark.parametrize("target", TARGETS)
def test_generate_writes_the_same_image(haswell, quantized_bundle, tmp_path, target):
    options = ("a red apple", "--seed", "7", "--steps", "3", "--target", target, "--precision", "fp32")
    for name, run in (("there.png", haswell), ("here.png", _run_here)):
        run(*COMMAND, "generate", quantized_bundle, *options, "-o", tmp_path / name)
    there, here = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("there.png", "here.png"))
    assert np.ptp(here) > 100
    assert abs(there - here).max() <= 1


def test_bench_measures_the_engines_there(haswell, quantized_bundle):
    options = ("--target", "openvino", "--steps", "1", "--warmups", "0", "--repeats", "1", "--json")
    report = json.loads(haswell(*COMMAND, "bench", quantized_bundle, *options))
    (candidate,) = report["candidates"]
    assert candidate["failure"] is None
    assert (candidate["facts"]["target"], candidate["facts"]["precision"]) == ("openvino", "fp32")
    measured = candidate["measured"]
    assert measured["step"]["seconds"]["count"] == 1
    assert 0 < measured["step"]["seconds"]["median"] < measured["image"]["median"]
    assert {"text_encoder", "unet", "vae_decoder"} <= set(measured["components"])


def test_native_code_takes_its_avx2_path(haswell, tmp_path):
    """The tests of the native libraries, run there: what is wider than AVX2 is found missing and skipped."""
    folders = ("tests/native", "tests/runtime/random/test_native.py")
    chosen = "not embedded and not same_time"  # threads that wait for each other spin for a minute in the emulator
    options = ("-p", "no:cacheprovider", "-vrs", f"--basetemp={tmp_path / 'inside'}", "-k", chosen)
    output = haswell("-m", "pytest", *options, *folders, folder=ROOT)
    passed = set(re.findall(r"(test_\w+)\[(.*)\] PASSED", output))
    for shape in ("1x1x1x1x16x16", "2x8x256x256x40x40"):
        assert ("test_matches_float64", f"avx2-6.0-{shape}") in passed
    assert not [case for name, case in passed if case.startswith(("avx512", "amx"))]
    for path in ("avx512", "amx"):
        assert f"lacks {path}: the path is untested here" in output


def _run_here(*arguments):
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
