"""Paths that are close to a checkpoint: one sentence names what was meant, before anything is downloaded."""

import re
from pathlib import Path

import diffusers
import pytest

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.families.lookup import find_family
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a checkpoint, a bundle, and files that are neither."""
    for name in ("sd3/transformer", "sd3/tokenizer", "x.bundle", "snapshots/abc", "loose"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("sd3/model_index.json", "sd3/transformer/config.json", "snapshots/abc/model_index.json"):
        (tmp_path / name).write_text("{}")
    for name in ("x.bundle/diffoundry.json", "crop.py", "weights.onnx", "loose/model.safetensors", "README"):
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("sd3/transformer", "got one component of the checkpoint sd3, expected the whole checkpoint; pass 'sd3'"),
        ("./sd3/tokenizer/", "got one component of the checkpoint sd3, expected the whole checkpoint; pass 'sd3'"),
        ("sd3/model_index.json", "got a file of the checkpoint sd3, expected its folder; pass 'sd3'"),
        ("sd3/transformer/config.json", "got a file of the checkpoint sd3, expected its folder; pass 'sd3'"),
        ("x.bundle", "got a bundle, expected a checkpoint; 'diffoundry build x.bundle' adds engines to a bundle"),
        ("crop.py", "got a .py file, which is no checkpoint, expected a diffusers folder, a single .safetensors file"),
        ("weights.onnx", "got a .onnx file, which is no checkpoint"),
        ("README", "got a file, which is no checkpoint"),
        ("snapshots", "got a folder without model_index.json, expected .*Did you mean 'snapshots/abc'?"),
        ("loose", "got a folder without model_index.json, expected .*Did you mean 'loose/model.safetensors'?"),
    ],
)
def test_the_checkpoint_that_was_meant_is_named(folder, model, message):
    pattern = re.escape(f"model {model!r}: ") + ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(CheckpointError, match=pattern):
        open_checkpoint(model)


def test_an_absolute_path_is_answered_with_one(folder):
    with pytest.raises(CheckpointError, match=re.escape(f"pass '{folder / 'sd3'}'")):
        open_checkpoint(str(folder / "sd3/transformer"))


def test_every_other_pipeline_of_diffusers_is_not_supported_yet():
    known = {name for entry in FAMILY_TABLE for name in entry.classes}
    names = [name for name in dir(diffusers) if name.endswith("Pipeline") and name not in known]
    assert len(names) > 100
    for name in names:
        with pytest.raises(CheckpointError) as error:
            find_family({"_class_name": name})
        sentence = str(error.value)
        assert sentence.startswith(
            f"{name.removesuffix('Pipeline')} is not supported yet (model_index.json has {name})"
        )
        assert "supported: Stable Diffusion 1.x, 2.x and XL" in sentence
        assert sentence.endswith("docs/reference/pipelines.md."), "none of them is a slip"


def test_the_pages_that_messages_name_exist():
    assert (Path(__file__).parents[3] / "docs/reference/pipelines.md").is_file()
