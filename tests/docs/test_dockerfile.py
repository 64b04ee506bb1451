"""The Dockerfile without Docker: its files exist, and its steps run in a folder and a virtual environment."""

import fnmatch
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_STEPS = (_ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def _ignore() -> list[str]:
    lines = (_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_files_and_stages_exist() -> None:
    entered = [line[1:] for line in _ignore() if line.startswith("!")]
    assert [name for name in entered if not (_ROOT / name).exists()] == []
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", _STEPS, re.MULTILINE)
    names = [name for _, name in stages if name]
    assert all(base in names or base.startswith("python:") for base, _ in stages)
    assert set(re.findall(r"--mount=from=(\w+)", _STEPS)) <= set(names)
    assert re.findall(r"^COPY (?!\.)(\S+) ", _STEPS, re.MULTILINE) == ["constraints.txt"]
    page = (_ROOT / "docs/how-to/use-docker.md").read_text(encoding="utf-8")
    assert set(re.findall(r"build --target (\w+)", page)) == {"run", "export"}
    assert set(re.findall(r"--build-arg (\w+)", page)) <= set(re.findall(r"^ARG (\w+)", _STEPS, re.MULTILINE))


@pytest.mark.slow
def test_steps_of_the_small_image_give_a_working_command(emoji_bundle, tmp_path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    for name in (line[1:] for line in _ignore() if line.startswith("!")):
        copy = shutil.copytree if (_ROOT / name).is_dir() else shutil.copy
        copy(_ROOT / name, source / name)
    venv.create(tmp_path / "env", with_pip=True)
    build, install = (_pip(step, tmp_path) for step in re.findall(r"(pip .*)", _STEPS)[:2])
    subprocess.run(["bash", "-ec", build.replace("pip ", f"{sys.executable} -m pip ", 1)], check=True)
    assert sorted(fnmatch.filter((path.name for path in wheels.iterdir()), "diffoundry*.whl"))
    shutil.copy(_ROOT / "constraints.txt", tmp_path / "constraints.txt")
    subprocess.run(["bash", "-ec", install.replace("pip ", f"{tmp_path}/env/bin/pip ", 1)], check=True)
    command = [tmp_path / "env/bin/diffoundry", "generate", emoji_bundle, "a red apple", "--steps", "2", "-o", "a.png"]
    subprocess.run([*map(str, command)], check=True, cwd=tmp_path)
    assert (tmp_path / "a.png").is_file()
    absent = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('diffoundry_models'))"
    run = subprocess.run([tmp_path / "env/bin/python", "-c", absent], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["None", "None"]


def _pip(step: str, folder: Path) -> str:
    """Put the folder's paths and the default extras into a command of the Dockerfile."""
    (extras,) = set(re.findall(r"^ARG EXTRAS=(\S+)", _STEPS, re.MULTILINE))
    for path in ("/source", "/wheels", "/tmp/constraints.txt"):
        step = step.replace(f" {path}", f" {folder}/{Path(path).name}").replace(f"echo {path}", f"echo {folder}{path}")
    return step.replace("${EXTRAS}", extras)
