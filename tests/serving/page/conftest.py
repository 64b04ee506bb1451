"""Fixtures: the page in Debian's Chromium, driven by Playwright; servers and one browser for a module."""

import shutil

import pytest
from page_driver import KEY, open_browser
from running_server import running_server

from diffoundry.runtime import load
from diffoundry.serving.server.security import read_keys

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def server(emoji_pipe):
    """A server of emoji."""
    with running_server([emoji_pipe]) as running:
        yield running


@pytest.fixture(scope="module")
def controlled_pipe(controlled_bundle):
    """A pipeline with a ControlNet."""
    with load(controlled_bundle(), target="onnxruntime", precision="fp32") as pipe:
        yield pipe


@pytest.fixture(scope="module")
def server_of_two(emoji_pipe, controlled_pipe):
    """A server of emoji, and of a bundle with a ControlNet."""
    with running_server([emoji_pipe, controlled_pipe]) as running:
        yield running


@pytest.fixture(scope="module")
def locked_server(emoji_pipe, tmp_path_factory):
    """A server that asks for a key."""
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(KEY)
    with running_server([emoji_pipe], keys=read_keys(path)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    """Chromium."""
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed: apt-get install chromium")
    with open_browser(CHROMIUM) as found:
        yield found


@pytest.fixture
def visit(browser):
    """Open the page of a server with an empty profile; fails if it broke its policy or asked another origin."""
    visits = []

    def open_page(url, **options):
        visits.append(browser.visit(url, **options))
        return visits[-1].page

    yield open_page
    for visit in visits:
        visit.close()
        assert visit.faults == []
