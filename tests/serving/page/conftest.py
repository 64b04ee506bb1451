"""Fixtures: the page in Debian's Chromium, driven by Playwright; one server and one browser for a module."""

import shutil

import pytest
from page_driver import KEY, open_browser
from running_server import running_server

from diffoundry.runtime import load
from diffoundry.serving.server.security import read_keys

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def bundles(exported, controlled_bundle):
    """The bundle of emoji, and one with a ControlNet."""
    return exported("emoji"), controlled_bundle()


@pytest.fixture(scope="module")
def server(bundles):
    """A server of both."""
    emoji, controlled = load(bundles[0]), load(bundles[1], target="onnxruntime", precision="fp32")
    with emoji, controlled, running_server([emoji, controlled]) as running:
        yield running


@pytest.fixture(scope="module")
def locked_server(bundles, tmp_path_factory):
    """A server that asks for a key."""
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(KEY)
    with load(bundles[0]) as emoji, running_server([emoji], keys=read_keys(path)) as running:
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
