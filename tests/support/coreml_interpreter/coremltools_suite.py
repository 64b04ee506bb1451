"""A pytest plugin: coremltools' own tests of its operators, with the interpreter in the place of Core ML.

They carry expected values by people who read the operator reference without us: `pytest -p
coreml_interpreter.coremltools_suite --pyargs coremltools.converters.mil.mil.ops.tests.iOS17`. What needs an operator
or a feature that our packages do not use is skipped.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreml_interpreter.package import Feature, UnsupportedPackageError
from coreml_interpreter.run import Interpreter, UnknownOperatorError

__all__ = ["pytest_configure"]


def pytest_configure() -> None:
    """Let their helper compare with the interpreter; it returns at once where there is no Core ML."""
    from coremltools.converters.mil.mil.ops.tests import testing_utils

    testing_utils.compare_backend = _compare


def _compare(
    mlmodel: Any,
    input_key_values: dict[str, np.ndarray],
    expected_outputs: dict[str, Any],
    dtype: str = "fp32",
    atol: float = 1e-4,
    rtol: float = 1e-5,
    allow_mismatch_ratio: float = 0.0,
    **_rest: Any,
) -> None:
    """The arguments and the tolerances are those of `coremltools.converters.mil.testing_utils.compare_backend`."""
    if not mlmodel.is_package:
        pytest.skip("no ML program")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mlpackage"
        mlmodel.save(str(path))
        try:
            interpreter = Interpreter(path)
        except (UnknownOperatorError, UnsupportedPackageError) as error:
            pytest.skip(str(error))
        inputs = interpreter.function.inputs
        run = interpreter.run({name: _fed(input_key_values[name], inputs[name]) for name in inputs})
    if dtype == "fp16":
        atol, rtol = max(atol * 100, 5e-1), max(rtol * 100, 5e-2)
    halves = any("float16" in {value.dtype for value in o.outputs.values()} for o in interpreter.function.operations)
    for name, expected in expected_outputs.items():
        got = run.outputs[name]
        if halves:  # some tests of fp32 build programs of halves: room for the rounding of the largest number
            atol = max(atol, 2**-10 * float(np.abs(expected).max(initial=0)))
        wrong = np.count_nonzero(~np.isclose(got, expected, atol=atol, rtol=rtol, equal_nan=True))
        if wrong > allow_mismatch_ratio * np.size(expected):
            np.testing.assert_allclose(got, expected, atol=atol, rtol=rtol)


def _fed(value: Any, feature: Feature) -> np.ndarray:
    """Feeds of the tests, in the type and shape that the model describes: a scalar enters as one number."""
    return np.asarray(value).astype(feature.dtype).reshape(feature.shape)
