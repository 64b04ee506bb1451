"""Executes the example notebooks in a kernel, with the exported model beside them."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

_NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs/examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", _NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_shows_what_the_page_shows(notebook, emoji_bundle, tmp_path):
    (tmp_path / "emoji.bundle").symlink_to(emoji_bundle)
    kept = nbformat.read(notebook, as_version=4)
    run = NotebookClient(nbformat.read(notebook, as_version=4), timeout=600, resources={"metadata": {"path": tmp_path}})
    run.execute()
    images = [[out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})] for cell in run.nb.cells]
    shown = [[out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})] for cell in kept.cells]
    assert [len(outputs) for outputs in images] == [len(outputs) for outputs in shown]
    assert sum(map(len, shown)) >= 4, "the notebook is kept with its images"
