"""Every command and every snippet of the pages, as typed, in a folder of its own with relative paths and empty caches.

Commands that name a large model run with a tiny one of its kind: `SUBSTITUTIONS` is the whole list of what is changed.
A block that is not run says why in a comment of its page: `<!-- not run: reason -->`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, Block, blocks, commands
from filelock import FileLock
from pixel_checkpoints import CHECKPOINTS as SYSTEMS

CHECKPOINTS = {
    "sd15": "sd1-checked",
    "sdxl": "xl",
    "sdxl-refiner": "xl-refiner",
    "sd3-medium": "sd3",
    "./sd-image-variations": "variation",
    "timbrooks/instruct-pix2pix": "instruct",
    "dit-xl-2-256": "dit",
    "cd-imagenet64": "consistency",
}
"""Model that pages name behind `--model` to the tiny random checkpoint of its kind that is exported instead."""

SUBSTITUTIONS = {
    "--buckets 512x512,768x512": "--buckets 64x64,96x64",
    "--width 1536 --height 1024": "--width 96 --height 64",
}
"""Words of a command to those that run instead: the sizes of a tiny checkpoint."""


def _is_run(block: Block) -> bool:
    return block.language in ("sh", "python") and block.exception is None


_FIRST = (
    "docs/get-started/install.md",
    "docs/how-to/use-schedulers-alone.md",
)
_OTHERS = [page for page in PAGES if page not in _FIRST and any(_is_run(block) for block in blocks(page))]
_SLOW = (pytest.mark.slow, pytest.mark.timeout(5400))  # docs/how-to/quantize.md calibrates four times


@pytest.mark.parametrize("page", [*_FIRST, *(pytest.param(page, marks=_SLOW) for page in _OTHERS)])
def test_page_runs_as_typed(
    page: str,
    page_folder: Path,
    page_files: dict[str, Callable[[Path], object]],
    tiny_sd_checkpoint: Callable[[str], Path],
    shared_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = [block for block in blocks(page) if _is_run(block)]
    for name, write in page_files.items():
        if any(re.search(rf"(?<![\w-]){re.escape(name)}", block.text) for block in run):
            write(page_folder / name)
    monkeypatch.chdir(page_folder)

    def tiny(name: str) -> Path:
        return _system(name, shared_folder) if name in SYSTEMS else tiny_sd_checkpoint(name)

    names: dict[str, object] = {}
    printed = ""
    for block in run:
        if block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
        for command in commands(block) if block.language == "sh" else ():
            printed += _run(command, page_folder, shared_folder, tiny)
    for quoted in re.findall("`(passed: [^`]+)`", PAGES[page].read_text(encoding="utf-8")):
        assert quoted in printed


def test_every_exception_has_a_reason_and_is_a_command() -> None:
    exceptions = {f"{page}:{block.line}": block for page in PAGES for block in blocks(page) if block.exception}
    for place, block in exceptions.items():
        sys.stdout.write(f"{place}: {block.exception}\n")  # listed by `pytest -s`
        assert block.language in ("sh", "python"), place
        assert len(block.exception.split()) >= 2, place


def test_commands_are_in_blocks_that_run() -> None:
    for page in PAGES:
        stray = [b for b in blocks(page) if b.language not in ("sh", "python") and _is_command(b)]
        allowed = 1 if page == "docs/how-to/verify.md" else 0  # needs the interpreter of the tests
        assert len(stray) <= allowed, [f"{page}:{block.line}" for block in stray]


def test_install_lines_name_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    demo_models = tomllib.loads((ROOT / "models/pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {*project["optional-dependencies"], *demo_models["optional-dependencies"]}
    for page, path in PAGES.items():
        for names in re.findall(r"pip install '?(?:\.|diffoundry)\S*\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= extras, page


def _system(name: str, shared: Path) -> Path:
    """Write a tiny checkpoint of a system once, and return its folder."""
    import torch

    folder = shared / f"page-{name}"
    with FileLock(shared / f"page-{name}.lock"):
        if not (folder / "model_index.json").is_file():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                SYSTEMS[name](folder)
    return folder


def _is_command(block: Block) -> bool:
    return block.text.lstrip().startswith(("diffoundry ", "python ", "$ diffoundry "))


def _run(command: str, folder: Path, shared: Path, tiny: Callable[[str], Path]) -> str:
    """Run one command as a user would and return what it printed; an export that another page has run is copied."""
    for words, others in SUBSTITUTIONS.items():
        command = command.replace(words, others)
    typed = shlex.split(command, comments=True)
    if typed[:2] == ["diffoundry", "export"]:
        model = typed[typed.index("--model") + 1]
        if model in CHECKPOINTS:
            command = command.replace(f"--model {model} ", f"--model {tiny(CHECKPOINTS[model])} ")
        return _export(command, folder, shared)
    return _shell(command, folder)


def _export(command: str, folder: Path, shared: Path) -> str:
    words = shlex.split(command, comments=True)
    place = words.index("-o") + 1
    name = re.sub(r"[^\w.-]+", "_", " ".join([*words[2 : place - 1], *words[place + 1 :]]))[-200:]
    kept = shared / "pages" / name
    with FileLock(shared / f"pages-{zlib.crc32(name.encode())}.lock"):
        if not kept.is_dir():
            printed = _shell(command, folder)
            shutil.copytree(folder / words[place], kept, symlinks=True)
            return printed
    shutil.copytree(kept, folder / words[place], symlinks=True)
    return ""


def _shell(command: str, folder: Path) -> str:
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_", "DIFFOUNDRY_"))},
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    run = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, f"{command}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    return run.stdout
