"""Linear forms: NumPy's arithmetic on them is exact, and everything that is not affine is refused by its name."""

import numpy as np
import pytest

from diffoundry.runtime.schedulers.plans.linear_form import LinearForm, NotAffineError, Symbol

X, Y = Symbol("sample", 0), Symbol("output", 0)


def _forms():
    return LinearForm.of("sample", 0), LinearForm.of("output", 0)


@pytest.mark.parametrize("two", [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array(2.0)])
def test_arithmetic_with_numbers_of_any_kind(two):
    x, y = _forms()
    combined = two * x - y / two + x * two + sum([y], start=0.0) - (-y)
    assert isinstance(combined, LinearForm)
    assert combined.terms == {X: 4.0, Y: 1.5}
    assert repr(combined) == "1.5 output[0] + 4 sample[0]"


def test_forms_add_and_scale():
    a, b = _forms()
    form = -(2.0 * a - b / 4.0) * np.float64(3.0) + 0.0
    assert form.terms == {X: -6.0, Y: 0.75}
    assert sum([a, b]).terms == {X: 1.0, Y: 1.0}
    assert repr(a - 0.5 * b) == "-0.5 output[0] + 1 sample[0]"


def test_forms_of_numpys_own_functions():
    x, y = _forms()
    assert np.add(x, y).terms == {X: 1.0, Y: 1.0}
    assert np.subtract(x, y).terms == {X: 1.0, Y: -1.0}
    assert np.multiply(np.float32(3), x).terms == np.multiply(x, np.float32(3)).terms == {X: 3.0}
    assert np.divide(x, np.float32(4)).terms == {X: 0.25}


@pytest.mark.parametrize(
    ("compute", "operation"),
    [
        (lambda x, y: np.clip(x, -1, 1), "clip"),
        (lambda x, y: np.abs(x), "absolute"),
        (lambda x, y: np.sqrt(x), "sqrt"),
        (lambda x, y: x[:, :1], "getitem"),
        (lambda x, y: np.moveaxis(x, 1, -1), "moveaxis"),
        (lambda x, y: x * np.ones(3), "multiply"),
        (lambda x, y: np.ones(3) * x, "multiply"),
        (lambda x, y: x / np.ones(3), "divide"),
        (lambda x, y: x + np.ones(3), "add"),
        (lambda x, y: np.add.outer(x, y), "add"),
    ],
)
def test_other_operations_are_refused_by_name(compute, operation):
    with pytest.raises(NotAffineError) as refusal:
        compute(*_forms())
    assert refusal.value.operation == operation
    assert str(refusal.value) == f"the operation '{operation}'"


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda x, y: x + 1.0, "adding the constant 1.0 to the sample"),
        (lambda x, y: 1.0 - x, "adding the constant 1.0 to the sample"),
        (lambda x, y: x * x, "multiplying two of sample, model output and noise"),
        (lambda x, y: x / x, "dividing by the sample, a model output or a noise"),
        (lambda x, y: x * y, "multiplying two of sample, model output and noise"),
        (lambda x, y: x / y, "dividing by the sample, a model output or a noise"),
    ],
)
def test_what_is_not_affine_is_refused(compute, message):
    with pytest.raises(NotAffineError, match=message):
        compute(*_forms())


def test_a_form_has_the_shape_of_one_pixel_and_any_dtype():
    x = LinearForm.of("output", 0, channels=2) * 0.5
    assert (x.shape, x.ndim, x.dtype) == ((1, 2, 1, 1), 4, np.float32)
    assert x.astype(np.float64) is x
    assert x.is_finite()
    assert not (x * float("inf")).is_finite()
