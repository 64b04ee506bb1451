"""Pieces of a model compute its numbers, for inputs that are left out and sizes of their own, too."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.protocol import run_checked
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.openvino.run.pieces import PieceRequests

TOLERANCE = 2e-5
"""Relative to the largest value: float32, with kernels that OpenVINO chooses for each model."""


MEMORY = 6_000_000
"""A third of what the network takes: some pieces, each of which is compiled in every call."""


@pytest.mark.parametrize(
    "buckets", [(), pytest.param(((64, 64),), marks=pytest.mark.slow)], ids=["any size", "buckets"]
)
def test_the_numbers_of_the_whole_model(open_engine, feeds_for, buckets):
    whole, split = (open_engine("sd1", "unet", buckets=buckets, memory=memory) for memory in (None, MEMORY))
    assert whole.least_memory == 0
    for batch in (2, 1) if buckets else (2,):
        feeds = feeds_for(whole, batch=batch)
        (got,), (wanted,) = (run_checked(engine, feeds, "unet").values() for engine in (split, whole))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())
    requests = next(iter(split._state.compiled.values()))
    assert len(requests.pieces) > 3
    assert 0 < split.least_memory < sum(piece.weights for piece in requests.pieces)
    split.close()
    with pytest.raises(EngineError, match="closed"):
        split.run({})


@pytest.mark.parametrize(("compressed", "width"), [(True, 1), (False, 4)])
def test_the_whole_model_holds_weights_in_its_file_and_in_its_layout(compressed, width):
    x = ops.parameter([2, 6], ov.Type.f32)
    floats = ops.convert(ops.constant(np.ones((6, 5), np.int8)), "f32")
    scaled = ops.multiply(floats, ops.constant(np.ones((1, 5), np.float32)))
    model = ov.Model([ops.result(ops.matmul(x, scaled, False, False))], [x])
    outputs = [TensorSpec(name="y", dtype="float32", shape=(2, 5))]
    pieces = PieceRequests(model, outputs, lambda _: None, Path(), 1 << 20, compressed=compressed)
    assert pieces.whole_memory == 2 * (width * 6 * 5 + 4 * 5)
