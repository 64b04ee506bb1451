"""The partial folder: an export continues in it, a second writer is refused, the whole is renamed."""

import errno
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


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"error": 1}', "\ufeff", "[" * 100_000])
def test_a_damaged_record_is_done_again(tmp_path, content):
    """As a loss of power leaves them: nothing that was recorded is believed, and nothing fails."""
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        _write_unet(writer)
    state = tmp_path / "b.partial/.export"
    (state / "unet.json").write_text(content)
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        assert writer.journal.recall("unet", ComponentSpec) is None
    (state / "recipe.json").write_text(content)
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        _write_unet(writer)
        _finish(writer)
    assert Bundle(tmp_path / "b").file("unet/model.onnx").read_bytes() == b"graph"
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("leftover", ["b.old", "b.partial"])
def test_leftovers_of_others_are_kept(tmp_path, leftover):
    """b.old may be a copy of the user's own; b.partial is refused unless it is an export's."""
    with BundleWriter(tmp_path / "b", _recipe()) as writer:
        _write_unet(writer)
        _finish(writer)
    (tmp_path / leftover).mkdir()
    (tmp_path / leftover / "holiday.jpg").touch()
    if leftover == "b.partial":
        with (
            pytest.raises(InputError, match=r"b\.partial, the folder to work in, holds other files; move it away and"),
            BundleWriter(tmp_path / "b", _recipe(), overwrite=True),
        ):
            pass
    else:
        with BundleWriter(tmp_path / "b", _recipe(model="n"), overwrite=True) as writer:
            _write_unet(writer)
            _finish(writer)
        assert Bundle(tmp_path / "b").manifest.recipe.model == "n"
    assert (tmp_path / leftover / "holiday.jpg").is_file()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "--output: got an empty name, expected the folder of the bundle, such as sd15.bundle"),
        (".", r"--output \.: exists already; choose another folder"),
        ("/", "--output /: exists already; choose another folder"),
        ("..", r"--output \.\.: exists already; choose another folder"),
        ("n" * 300, r"--output n{80}\.\.\.: cannot be written \(File name too long\); choose another folder"),
    ],
)
def test_odd_outputs_are_refused_in_one_sentence(tmp_path, monkeypatch, output, message):
    from diffoundry.exporter.cli.export import command

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        command.main(["--model", "emoji", "--target", "onnxruntime", "-o", output], standalone_mode=False)


def test_a_name_without_room_for_the_ending(tmp_path):
    with (
        pytest.raises(InputError, match=r"cannot be written \(File name too long\); choose another folder"),
        BundleWriter(tmp_path / ("n" * 250), _recipe()),
    ):
        pass


def test_a_full_disk_and_a_read_only_folder(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "b.partial/x"))
    message = "--output .*: no space left while writing .*x .*; finished jobs are kept"
    with pytest.raises(BundleError, match=message), BundleWriter(tmp_path / "b", _recipe()):
        raise full

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with (
        pytest.raises(InputError, match=r"cannot be written \(Read-only file system\); choose another folder"),
        BundleWriter(tmp_path / "c", _recipe()),
    ):
        pass


def test_a_link_to_a_bundle_is_replaced_at_its_end(tmp_path):
    (tmp_path / "disk").mkdir()
    for model, place in (("m", "disk/b"), ("n", "b")):
        if place == "b":
            (tmp_path / "b").symlink_to(tmp_path / "disk/b")
        with BundleWriter(tmp_path / place, _recipe(model=model), overwrite=True) as writer:
            _write_unet(writer)
            _finish(writer)
        assert Bundle(tmp_path / "disk/b").manifest.recipe.model == model
    assert (tmp_path / "b").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["b"]
