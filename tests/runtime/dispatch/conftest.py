"""A tiny pipeline, and dispatchers whose calls wait for every run."""

import tarfile
from pathlib import Path

import pytest

from diffoundry.runtime import load
from diffoundry.runtime.dispatch import Dispatcher


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The golden bundle of the newest format without a ControlNet: 8 channels, VAE of factor 2."""
    folder = tmp_path_factory.mktemp("tiny")
    with tarfile.open(Path(__file__).parents[1] / "golden/v3.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def tiny(tiny_folder):
    """A pipeline of it."""
    with load(tiny_folder) as pipeline:
        yield pipeline


@pytest.fixture
def dispatch():
    """Factory: a dispatcher that waits long for runs between two calls, so that which calls are joined is certain."""
    made = []

    def make(**options):
        made.append(Dispatcher(**{"gather_seconds": 30, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()
