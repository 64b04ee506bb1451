"""Pieces of a model compute its numbers, for inputs that are left out and sizes of their own, too."""

import numpy as np
import pytest

from diffoundry.runtime.engines.protocol import run_checked
from diffoundry.runtime.errors import EngineError

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
