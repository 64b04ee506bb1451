"""Bundles by their id on the hub: downloaded from a small server, and out of the cache as its library lays it out."""

import json
import os
import shutil
import sys

import huggingface_hub
import numpy as np
import pytest
from fake_hub import COMMIT, serve, use_endpoint
from lora_files import random_lora

from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.hub import find_bundle
from diffoundry.runtime.cli.group import group
from diffoundry.runtime.errors import BundleError, EngineError, InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the test's own, an empty working folder, and no way to the real hub."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


@pytest.fixture
def hub(exported, tiny_sd_checkpoint, tmp_path):
    """A repository that holds a bundle, and a file that its manifest does not list."""
    folder = shutil.copytree(exported(tiny_sd_checkpoint()), tmp_path / "served")
    (folder / "README.md").write_text("a model card")
    yield from serve(folder)


@pytest.fixture
def snapshot(hub):
    """The bundle in the cache, as the hub's library has downloaded it."""
    return find_bundle("org/model", endpoint=hub.address)


def _latents(bundle):
    return load(bundle)("a", num_inference_steps=1, seed=0, output_type="latent").images


def test_a_bundle_is_downloaded_and_generates_what_its_folder_does(hub, snapshot):
    names = Bundle(hub.folder).manifest.files
    assert set(hub.asked) <= {*names, "diffoundry.json"}  # equal files are fetched once
    assert (snapshot / "unet/model.onnx").is_symlink()
    np.testing.assert_array_equal(_latents("org/model"), _latents(hub.folder))
    bundle = Bundle(snapshot)
    assert all(bundle.file(name).is_file() for name in names)


def test_the_cache_is_found_where_the_library_has_it(snapshot, monkeypatch, capsys):
    expected = huggingface_hub.snapshot_download("org/model", local_files_only=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    for name in ("org/model", "org/model@main", f"org/model@{COMMIT}"):
        assert str(find_bundle(name)) == expected
    group.main(["inspect", "org/model", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["components"] == list(Bundle(snapshot).components)


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"HF_HUB_CACHE": "", "HF_HOME": "{here}/home"}, "home/hub"),
        ({"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "{here}/old"}, "old"),
        ({"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": "{here}/xdg"}, "xdg/huggingface/hub"),
    ],
)
def test_the_librarys_variables_name_the_cache(snapshot, cache, tmp_path, monkeypatch, variables, place):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(here=tmp_path))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    cache.rename(tmp_path / place)
    assert find_bundle("org/model") == tmp_path / place / "models--org--model/snapshots" / COMMIT


def test_what_is_missing_in_the_cache_is_downloaded_again(hub, snapshot):
    blob = (snapshot / "unet/model.onnx_data").resolve()
    blob.unlink()
    hub.asked.clear()
    assert find_bundle("org/model", endpoint=hub.address) == snapshot
    assert hub.asked == ["unet/model.onnx_data"]
    assert blob.is_file()


def test_a_folder_here_comes_first(tmp_path):
    (tmp_path / "here/org/model").mkdir(parents=True)
    with pytest.raises(BundleError, match="bundle org/model: got a folder without diffoundry.json"):
        load("org/model")
    with pytest.raises(BundleError, match="bundle org/other: got nothing there, expected a folder"):
        load("org/other")  # the folder `org` is here, so this is a mistyped path


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("RepoNotFound", r"'org/model': no folder of this name is here, and the hub has no such repository"),
        ("RevisionNotFound", r"'org/model': the hub has no revision None of it; check the word after @"),
        ("GatedRepo", r"'org/model': its licence must be accepted on its hub page, and 'hf auth login' run"),
    ],
)
def test_each_refusal_of_the_hub_has_its_sentence(hub, code, message):
    hub.error = code
    with pytest.raises(BundleError, match=message):
        find_bundle("org/model", endpoint=hub.address)


def test_other_failures_have_theirs(hub, monkeypatch):
    hub.broken = "unet/model.onnx_data"
    with pytest.raises(BundleError, match=r"the download from the hub broke off \(.*run the command again to continue"):
        find_bundle("org/model", endpoint=hub.address)
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(
            BundleError, match=r"'org/else': .* here, so it was taken as a hub id, but the hub cannot be"
        ):
            find_bundle("org/else")
    (hub.folder / "diffoundry.json").unlink()
    with pytest.raises(BundleError, match=r"'org/model@main': the repository has no diffoundry\.json, so it is no"):
        find_bundle("org/model@main", endpoint=hub.address)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BundleError, match="'org/else': got no folder of this name, and .* the hub's cache; 'pip"):
        find_bundle("org/else")


@pytest.mark.timeout(20)  # an answer, not a series of retries
def test_a_misspelled_path_is_answered_at_once():
    with pytest.raises(BundleError, match=r"'no/where': got no folder of this name here, .* cannot be reached \(.+\);"):
        find_bundle("no/where", endpoint="http://127.0.0.1:9")


def test_engines_are_not_added_in_the_cache(snapshot):
    from diffoundry.exporter.cli.build import command

    with pytest.raises(InputError, match=r"lies in the hub's cache, .*; copy it with 'cp -rL .* my\.bundle'"):
        command.main(["org/model", "--target", "onnxruntime", "--precision", "fp16"], standalone_mode=False)


def _relink(link, target):
    link.unlink()
    link.symlink_to(target)


def test_links_out_of_the_cache_are_refused(snapshot, tmp_path):
    link = snapshot / "unet/model.onnx"
    blob = link.resolve()
    secret = shutil.copy(blob, tmp_path / "secret")
    _relink(link, secret)
    with pytest.raises(BundleError, match="model.onnx is a symbolic link, expected a plain file"):
        Bundle(snapshot)
    _relink(link, os.path.relpath(blob, link.parent))
    Bundle(snapshot)
    (snapshot / "vae_decoder").rename(tmp_path / "elsewhere")
    (snapshot / "vae_decoder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="vae_decoder is a symbolic link"):
        Bundle(snapshot)


def test_a_folder_of_blobs_that_is_a_link_counts_for_nothing(snapshot, tmp_path):
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="diffoundry.json is a symbolic link"):
        Bundle(snapshot)


def test_a_blob_is_held_against_the_manifest(snapshot):
    blob = (snapshot / "unet/model.onnx_data").resolve()
    os.link(blob, blob.with_name("twin"))  # as a disk that stores equal files once
    assert Bundle(snapshot).file("unet/model.onnx_data").is_file()
    with blob.open("r+b") as stream:
        stream.seek(100)
        stream.write(b"\xff\0\xff")
    with pytest.raises(BundleError, match="it was changed after the export"):
        Bundle(snapshot).file("unet/model.onnx_data")


@pytest.mark.slow
def test_openvino_takes_no_adapters_through_links(wide_bundle, tiny_sd_checkpoint, cache, tmp_path):
    """It has a check of its own for weights in another folder; without adapters it reads them."""
    pytest.importorskip("openvino")
    source = wide_bundle("sd1-tiny")
    repository = cache / "models--org--other"
    snapshot = repository / "snapshots" / COMMIT
    for file in [path for path in source.rglob("*") if path.is_file()]:
        name = file.relative_to(source)
        blob = repository / "blobs" / name.as_posix().replace("/", "-")
        for path in (blob, snapshot / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    pipe = load(snapshot, target="openvino", precision="fp32")
    plain = load(source, target="openvino", precision="fp32")
    call = {"num_inference_steps": 1, "seed": 0, "output_type": "latent"}
    np.testing.assert_array_equal(pipe("a", **call).images, plain("a", **call).images)
    with pytest.raises(EngineError, match=r"got links as in the hub's cache; copy the bundle with 'cp -rL FOLDER"):
        pipe.loras.load(random_lora(tiny_sd_checkpoint("sd1-tiny"), tmp_path / "x.safetensors"))
