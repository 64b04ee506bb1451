"""Links and images of every page lead to a file of the repository, and anchors to a heading."""

import pytest
from doc_pages import PAGES, anchors, links


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert target.exists(), f"{page}: {link} does not exist"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link} has no such heading"


def test_every_page_of_the_site_is_reachable_from_the_index() -> None:
    index = PAGES["docs/index.md"]
    reached = {(index.parent / link.partition("#")[0]).resolve() for link in links("docs/index.md")}
    pages = {path.resolve() for page, path in PAGES.items() if page.startswith("docs/")}
    assert pages - reached == {index.resolve()}
