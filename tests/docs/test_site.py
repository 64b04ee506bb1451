"""The site builds without a network, every warning being an error: missing pages, links and documented names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("mkdocs.yml", "docs"):
        (folder / name).symlink_to(ROOT / name)
    offline = {**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")]
    run = subprocess.run(command, cwd=folder, env=offline, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "site"


def test_the_command_line_reference_has_every_option(site: Path) -> None:
    from diffoundry.runtime.cli.group import COMMANDS

    page = (site / "reference/cli.html").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f'id="{command}"' in page
    for option in ("--guidance-scale", "--min-psnr", "--against"):
        assert f"<code>{option}" in page


def test_the_python_reference_has_docstrings(site: Path) -> None:
    page = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in ("load", "EngineOptions", "PipelineOutput", "TorchCpuGenerator", "InputError"):
        assert name in page


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="https?://', text), path


def test_the_passes_are_shown_in_their_order(site: Path) -> None:
    page = (site / "design/graph.html").read_text(encoding="utf-8")
    assert page.index("FoldConstants") < page.index("FuseAttention") < page.index("NameNodes")
