"""The Dockerfile without Docker: its base is an image of ours, and its command is one that `serve` takes."""

import json
import re
from pathlib import Path

import pytest

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.group import group
from diffoundry.runtime.errors import InputError
from diffoundry.serving.deploy.docker import extras_of
from diffoundry.serving.server import run

_ROOT = Path(__file__).parents[3]


def test_the_image_serves_the_bundle(emoji, tmp_path, monkeypatch):
    group.main(["deploy", str(emoji), "--to", "docker", "-o", str(tmp_path / "image")], standalone_mode=False)
    text = (tmp_path / "image/Dockerfile").read_text(encoding="utf-8")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [word for word, _ in steps] == ["ARG", "FROM", "COPY", "EXPOSE", "HEALTHCHECK", "CMD"]
    base = (_ROOT / "Dockerfile").read_text(encoding="utf-8")
    (stage,) = re.findall(r"docker build --target (\w+) --build-arg EXTRAS=serve,onnxruntime -t", text)
    assert f" AS {stage}\n" in base
    assert 'ENTRYPOINT ["diffoundry"]' in base
    source, place = dict(steps)["COPY"].split()
    assert (tmp_path / "image" / source / "diffoundry.json").is_file()
    served = []
    monkeypatch.setattr(run, "serve", lambda state, _: served.append(list(state.models)))
    words = json.loads(dict(steps)["CMD"])
    assert place in words
    words[words.index(place)], words[words.index("--port") + 1] = str(tmp_path / "image" / source), "0"
    group.main(words, standalone_mode=False)
    assert served == [["emoji"]]
    compile(json.loads(dict(steps)["HEALTHCHECK"].partition("CMD ")[2])[2], "health", "exec")


def test_everything_that_the_wheel_is_made_of_enters_the_build():
    ignore = (_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    project = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    folders = re.findall(r'^"diffoundry/\w+" = "(\w+)"$', project, re.MULTILINE)
    assert "serving" in folders
    assert {f"!{folder}" for folder in folders} <= set(ignore)


def test_a_bundle_without_an_engine_for_containers_is_refused(emoji):
    bundle = Bundle(emoji)
    text = "has engines for coreml, expected one of onnxruntime, openvino, tensorrt, tensorrt-rtx; add one with"
    for component in bundle.manifest.components.values():
        for engine in component.engines:
            object.__setattr__(engine, "target", "coreml")
    with pytest.raises(InputError, match=text):
        extras_of(bundle)
