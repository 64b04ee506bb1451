"""Fixtures that run one pass on a graph written as text, and compare the numbers of before and after."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes import common

__all__ = ["numbers", "ops", "transform"]


def parse(text: str, weights: dict[str, np.ndarray], *, infer: bool) -> ir.Model:
    """The graph, with shapes if `infer`, and with those inputs that `weights` names turned into initializers."""
    model = ir.from_onnx_text(text)
    for name, array in weights.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    if infer:
        common.ShapeInferencePass(data_prop=True)(model)
    return model


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Every output, by ONNX Runtime with its optimiser off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


@pytest.fixture
def transform() -> Callable[..., ir.Model]:
    """Apply a pass; the standard's checker takes the result and its numbers are those of before.

    `transform(text, pass_, feeds, weights={...}, modified=True, infer=True, rtol=1e-5, atol=1e-6)`.
    """

    def make(
        text: str,
        pass_: ir.passes.PassBase,
        feeds: dict[str, np.ndarray],
        *,
        weights: dict[str, np.ndarray] | None = None,
        modified: bool = True,
        infer: bool = True,
        **tolerance: Any,
    ) -> ir.Model:
        before, after = (parse(text, weights or {}, infer=infer) for _ in range(2))
        result = pass_(after)
        assert result.modified is modified
        assert result.model is after
        onnx.checker.check_model(ir.to_proto(after), full_check=True)
        for old, new in zip(run(before, feeds), run(after, feeds), strict=True):
            assert new.dtype == old.dtype
            np.testing.assert_allclose(new, old, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))
        return after

    return make


@pytest.fixture
def ops() -> Callable[[ir.Model], list[str]]:
    """The operators of a graph in order, with their domain where it is not the standard's."""
    return lambda model: ["::".join(part for part in (n.domain, n.op_type) if part) for n in model.graph]


@pytest.fixture
def numbers() -> Callable[..., np.ndarray]:
    """Random float32 of a shape, the same ones every time."""
    return lambda *shape: np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)
