"""Runs every test of the contract on every backend."""

import pytest
from engine_backends import make_backend, names


@pytest.fixture(scope="module", params=names())
def backend(request, tmp_path_factory):
    """Lowers the tiny graphs for one installed target and opens their engines."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield make_backend(request.param, tmp_path_factory.mktemp(request.param), monkeypatch)
