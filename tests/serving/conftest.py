"""Fixtures of the tests of serving."""

import pytest

from diffoundry.runtime import load


@pytest.fixture(scope="session")
def emoji_pipe(exported):
    """The pipeline of emoji on ONNX Runtime."""
    with load(exported("emoji")) as pipe:
        yield pipe
