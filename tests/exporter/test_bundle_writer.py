"""The partial folder: an export continues in it, a second writer is refused, the whole is renamed."""

import os

import pytest

from diffoundry.exporter.bundle_writer import BundleWriter
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import ComponentSpec, EngineSpec, Recipe, Variant
from diffoundry.runtime.errors import BundleError, InputError

_SPEC = ComponentSpec(
    role="denoiser",
    network="UNet2DConditionModel",
    graph=("unet/model.onnx",),
    engines=(EngineSpec(target="onnxruntime", precision="fp32", files=("unet/model.onnx",), inputs=(), outputs=()),),
)


def _recipe(**changes) -> Recipe:
    builds = (Variant(target="onnxruntime", precision="fp32"),)
    values = {"model": "m", "source": {}, "variants": builds, "dims": {}, "opset": 20}
    return Recipe(**(values | changes))


def _write_unet(writer: BundleWriter) -> None:
    assert writer.journal.recall("unet", ComponentSpec) is None
    writer.empty("unet")
    (writer.folder / "unet/model.onnx").write_bytes(b"graph")
    writer.journal.note("unet", _SPEC)


def _finish(writer: BundleWriter) -> None:
    writer.write_json("model_index.json", {"_class_name": "StableDiffusionPipeline"})
    writer.finish("stable_diffusion", writer.recipe, {"unet": _SPEC}, {})


def test_a_finished_bundle_opens_and_leaves_nothing_beside(tmp_path):
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        _write_unet(writer)
        assert not (tmp_path / "b").exists()
        _finish(writer)
    assert os.listdir(tmp_path) == ["b"]
    assert Bundle(tmp_path / "b").file("unet/model.onnx").read_bytes() == b"graph"


def test_the_same_recipe_continues(tmp_path):
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        _write_unet(writer)
        writer.empty("vae_decoder")
        (writer.folder / "vae_decoder/half").write_bytes(b"half written")
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        assert writer.journal.recall("unet", ComponentSpec) == _SPEC
        assert (writer.folder / "unet/model.onnx").read_bytes() == b"graph"
        assert writer.journal.recall("vae_decoder", ComponentSpec) is None
        writer.empty("vae_decoder")
        assert os.listdir(writer.folder / "vae_decoder") == []


def test_another_recipe_starts_from_the_beginning(tmp_path):
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        _write_unet(writer)
    with BundleWriter(tmp_path / "b", _recipe(opset=21)) as writer:
        assert writer.journal.recall("unet", ComponentSpec) is None
        assert not (writer.folder / "unet").exists()


def test_two_exports_to_one_folder(tmp_path):
    with (
        BundleWriter(tmp_path / "b", _recipe()),
        pytest.raises(InputError, match="another export is writing it; wait for it or choose another folder"),
        BundleWriter(tmp_path / "b", _recipe()),
    ):
        pass


def test_an_existing_output_is_kept_unless_asked(tmp_path):
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        _write_unet(writer)
        _finish(writer)
    with pytest.raises(InputError, match="exists already; choose another folder, or pass --overwrite"):
        BundleWriter(tmp_path / "b", _recipe())
    with BundleWriter(tmp_path / "b", _recipe(model="n"), overwrite=True) as writer:
        _write_unet(writer)
        assert Bundle(tmp_path / "b").manifest.recipe.model == "m"
        _finish(writer)
    assert Bundle(tmp_path / "b").manifest.recipe.model == "n"
    assert os.listdir(tmp_path) == ["b"]


def test_a_folder_that_is_no_bundle_is_never_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="exists and is no bundle, so it is not overwritten"):
        BundleWriter(tmp_path / "photos", _recipe(), overwrite=True)


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"cannot be written \(Not a directory\); choose another folder"),
        BundleWriter(tmp_path / "file" / "b", _recipe()),
    ):
        pass


def test_a_full_disk_while_writing_records(tmp_path, monkeypatch):
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        _write_unet(writer)

        def full(*_args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(BundleError, match=r"cannot be written \(No space left on device\); free some space"):
            _finish(writer)
    assert not (tmp_path / "b").exists()
