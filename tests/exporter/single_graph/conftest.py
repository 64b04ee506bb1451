"""Bundles with one graph of the whole pipeline."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def with_graph(emoji_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory: a bundle with one graph, by the loop; its other files are copies."""
    from diffoundry.exporter.single_graph.check import check_request, check_single_graph
    from diffoundry.exporter.single_graph.request import SingleGraphRequest
    from diffoundry.exporter.single_graph.write import write_single_graph
    from diffoundry.runtime import load
    from diffoundry.runtime.bundle.bundle import Bundle

    def make(bundle: Path = emoji_bundle, **loop: object) -> Path:
        folder = tmp_path_factory.mktemp("graph") / bundle.name
        shutil.copytree(bundle, folder)
        recipe = Bundle(folder).manifest.recipe
        request = SingleGraphRequest(**loop)
        variant = check_request(request, recipe)
        check_single_graph(load(folder), request, recipe)
        write_single_graph(folder, request, recipe, variant)
        return folder

    return make
