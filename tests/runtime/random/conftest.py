"""Fixtures of the random number tests: torch when it is there, and comparison to the last bit where that holds."""

import numpy as np
import pytest

ULP = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def assert_same_normals(torch):
    """Normals of ours against torch's: equal bits where torch runs its AVX2 code, else the documented distance."""
    bit_equal = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}

    def check(ours, theirs):
        name = str(theirs.dtype).removeprefix("torch.")
        assert ours.dtype == (np.float32 if name == "bfloat16" else np.dtype(name))
        expected = (theirs.float() if name == "bfloat16" else theirs).numpy()
        assert ours.shape == expected.shape
        if bit_equal and name != "float64":
            assert ours.tobytes() == expected.tobytes()
        else:
            np.testing.assert_allclose(ours, expected, rtol=4 * ULP[name], atol=min(1e-6, 4 * ULP[name]))

    return check
