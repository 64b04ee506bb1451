"""Copies of the emoji bundle that are broken on purpose, with the manifest's sums made to fit."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from diffoundry.exporter.steps.lower import write_engine
from diffoundry.exporter.verify import VerifyRequest
from diffoundry.exporter.verify.checks import remade
from diffoundry.runtime.bundle.checksums import sha256_of
from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.engines.protocol import EngineOptions


class EditableBundle:
    """A copy of a bundle whose files can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def edit_json(self, name: str, **changes: object) -> None:
        """Set fields of a JSON file."""
        file = self.path / name
        data = json.loads(file.read_text())
        assert data.keys() >= changes.keys()
        file.write_text(json.dumps(data | changes))
        self.seal()

    def edit_weight(self, component: str, name: str, edit: Callable[[np.ndarray], None]) -> None:
        """Change an initializer of the engine's graph in place; `name` is the end of its name."""
        manifest = json.loads((self.path / "diffoundry.json").read_text())
        file = self.path / manifest["components"][component]["engines"][0]["files"][0]
        graph = onnx.load(file)
        (tensor,) = (tensor for tensor in graph.graph.initializer if tensor.name.endswith(name))
        array = numpy_helper.to_array(tensor).copy()
        edit(array)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        onnx.save(graph, file)
        self.seal()

    def seal(self) -> None:
        """Write sizes and checksums of all files into the manifest, as an attacker could."""
        file = self.path / "diffoundry.json"
        manifest = json.loads(file.read_text())
        for name in manifest["files"]:
            path = self.path / name
            manifest["files"][name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
        file.write_text(json.dumps(manifest))


@pytest.fixture
def copied(emoji_bundle: Path, editable: Callable[[Path], EditableBundle]) -> EditableBundle:
    return editable(emoji_bundle)


@pytest.fixture
def editable(tmp_path: Path) -> Callable[[Path], EditableBundle]:
    """Factory: a copy of a bundle."""
    return lambda bundle: EditableBundle(Path(shutil.copytree(bundle, tmp_path / bundle.name)))


@pytest.fixture
def quick() -> VerifyRequest:
    """One image in two steps, on one thread."""
    return VerifyRequest(prompts=("red apple",), steps=2, options=EngineOptions(threads=1))


@pytest.fixture(scope="session")
def _made_engines() -> dict[str, tuple[EngineSpec, dict[str, bytes]]]:
    return {}


_NO_INPUTS = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3", "feature_extractor")
"""Folders that no target reads: their files are copied into the bundle as they are."""


@pytest.fixture(autouse=True)
def _make_engines_once(
    monkeypatch: pytest.MonkeyPatch, _made_engines: dict[str, tuple[EngineSpec, dict[str, bytes]]]
) -> None:
    """Lower the same portable graph for the same variant once: copies of a bundle are verified in many tests."""

    def write_once(*, component: str, folder: str, **rest: object) -> EngineSpec:
        place = Path(folder)
        files = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
        inputs = {file.as_posix(): sha256_of(place / file) for file in files if file.parts[0] not in _NO_INPUTS}
        words = {name: repr(value) for name, value in rest.items() if not callable(value)}
        key = json.dumps([component, sorted(inputs.items()), sorted(words.items())])
        if key not in _made_engines:
            spec = write_engine(component=component, folder=folder, **rest)
            _made_engines[key] = spec, {file: (place / file).read_bytes() for file in spec.all_files}
        spec, files = _made_engines[key]
        for file, content in files.items():
            if not (place / file).exists():
                (place / file).write_bytes(content)
        return spec

    monkeypatch.setattr(remade, "write_engine", write_once)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Test processes share the cores: threads of PyTorch that wait for each other would take most of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
