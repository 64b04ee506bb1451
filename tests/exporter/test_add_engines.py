"""Engines added to a finished bundle: usable, recorded, remembered when interrupted; the rest unchanged."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from diffoundry.exporter.add_engines import add_engines, pending_variants
from diffoundry.runtime import load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.manifest import dump_manifest
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import BundleError, InputError

_FP16 = Variant(target="onnxruntime", precision="fp16")


@pytest.fixture
def own_bundle(exported, tiny_sd_checkpoint, tmp_path):
    """A copy of the tiny checkpoint's fp32 bundle."""
    return shutil.copytree(exported(tiny_sd_checkpoint()), tmp_path / "own.bundle")


def _quiet(*_words):
    pass


def _latents(bundle, precision):
    image = load(bundle, precision=precision)("a", num_inference_steps=2, seed=0, output_type="latent")
    return image.images


def _rewrite(bundle, manifest):
    (bundle / "diffoundry.json").write_text(dump_manifest(manifest))


def test_a_precision_is_added(own_bundle, exported, tiny_sd_checkpoint, work_here):
    before = Bundle(own_bundle).manifest
    report = add_engines(own_bundle, [_FP16], _quiet, run=work_here)
    after = Bundle(own_bundle).manifest
    assert report.manifest == after
    assert [build.precision for build in after.recipe.variants] == ["fp32", "fp16"]
    assert all([e.precision for e in spec.engines] == ["fp32", "fp16"] for spec in after.components.values())
    assert {name: after.files[name] for name in before.files} == before.files
    assert not list(own_bundle.rglob(".*"))
    assert not own_bundle.with_name("own.bundle.build").exists()
    at_once = exported(tiny_sd_checkpoint(), precision="fp16")
    np.testing.assert_array_equal(_latents(own_bundle, "fp16"), _latents(at_once, "fp16"))
    assert np.abs(_latents(own_bundle, "fp16") - _latents(own_bundle, "fp32")).max() > 0


def test_existing_engines_are_not_built_again_unless_asked(own_bundle, work_here):
    fp32 = Variant(target="onnxruntime", precision="fp32")
    with pytest.raises(InputError, match="holds onnxruntime fp32 already; pass --overwrite to build it again"):
        add_engines(own_bundle, [fp32], _quiet, run=work_here)
    expected = _latents(own_bundle, "fp32")
    add_engines(own_bundle, [replace(fp32, options={"winograd": False})], _quiet, overwrite=True, run=work_here)
    manifest = Bundle(own_bundle).manifest
    assert [dict(build.options) for build in manifest.recipe.variants] == [{"winograd": False}]
    np.testing.assert_allclose(_latents(own_bundle, "fp32"), expected, atol=1e-4)


def test_nothing_pending(own_bundle, work_here):
    with pytest.raises(InputError, match="no engine is pending; pass --target and --precision of the engines to add"):
        add_engines(own_bundle, [], _quiet, run=work_here)


def test_pending_engines_are_built(own_bundle, work_here):
    manifest = Bundle(own_bundle).manifest
    waiting = {
        name: replace(spec, engines=tuple(replace(engine, pending="needs a GPU") for engine in spec.engines))
        for name, spec in manifest.components.items()
    }
    _rewrite(own_bundle, replace(manifest, components=waiting))
    assert pending_variants(Bundle(own_bundle).manifest) == manifest.recipe.variants
    add_engines(own_bundle, [], _quiet, run=work_here)
    assert Bundle(own_bundle).manifest == manifest


def test_engines_that_an_earlier_version_took_out_are_pending(own_bundle, work_here):
    """Version 0.1 removed the old engines first; interrupted, it left a recipe that names engines which are gone."""
    whole = Bundle(own_bundle).manifest
    gone = {name: replace(spec, engines=()) for name, spec in whole.components.items()}
    _rewrite(own_bundle, replace(whole, components=gone))
    assert pending_variants(Bundle(own_bundle).manifest) == whole.recipe.variants
    add_engines(own_bundle, [], _quiet, run=work_here)
    assert Bundle(own_bundle).manifest == whole


@pytest.mark.slow
def test_a_failed_build_leaves_the_bundle_and_continues(own_bundle, work_here):
    before = (own_bundle / "diffoundry.json").read_bytes()

    def fail(job, progress):
        if job.component == "vae_decoder":
            raise BundleError("no space left")
        return work_here(job, progress)

    with pytest.raises(BundleError, match="no space left"):
        add_engines(own_bundle, [_FP16], _quiet, run=fail)
    assert (own_bundle / "diffoundry.json").read_bytes() == before
    assert _latents(own_bundle, "fp32").shape[1] == 4
    report = add_engines(own_bundle, [_FP16], _quiet, run=work_here)
    assert report.kept == tuple(f"{name}, onnxruntime fp16" for name in ("text_encoder", "unet", "vae_encoder"))
    assert _latents(own_bundle, "fp16").shape[1] == 4


def test_an_interrupted_rebuild_keeps_the_old_engines_and_resumes(own_bundle, work_here):
    """The UNet's engine is another already, in a file of the same name, when it is interrupted."""
    anew = Variant(target="onnxruntime", precision="fp32", options={"device": "cuda"})

    def interrupted(job, progress):
        if job.component == "vae_decoder":
            raise KeyboardInterrupt
        return work_here(job, progress)

    before = Bundle(own_bundle).manifest
    old = (own_bundle / "unet/model.onnxruntime.onnx").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        add_engines(own_bundle, [anew], _quiet, overwrite=True, run=interrupted)
    assert (own_bundle.with_name("own.bundle.build") / "unet/model.onnxruntime.onnx").read_bytes() != old
    assert (own_bundle / "unet/model.onnxruntime.onnx").read_bytes() == old
    assert Bundle(own_bundle).manifest == before
    assert _latents(own_bundle, "fp32").shape[1] == 4
    report = add_engines(own_bundle, [anew], _quiet, overwrite=True, run=work_here)
    assert report.kept == tuple(f"{name}, onnxruntime fp32" for name in ("text_encoder", "unet", "vae_encoder"))
    assert (own_bundle / "unet/model.onnxruntime.onnx").read_bytes() != old
    assert _latents(own_bundle, "fp32").shape[1] == 4
    assert sorted(path.name for path in own_bundle.parent.iterdir()) == ["own.bundle"]
    assert not list(own_bundle.rglob(".*"))


def test_a_changed_graph_is_refused(own_bundle, work_here):
    with (own_bundle / "unet/model.onnx").open("r+b") as graph:
        graph.seek(100)
        graph.write(b"\0")
    with pytest.raises(BundleError, match="it was changed after the export"):
        add_engines(own_bundle, [_FP16], _quiet, run=work_here)


@pytest.mark.slow
def test_two_builds_at_once(own_bundle, work_here):
    def again(job, progress):
        with pytest.raises(InputError, match="another command is adding engines to it; wait for it"):
            add_engines(own_bundle, [_FP16], _quiet, run=work_here)
        return work_here(job, progress)

    add_engines(own_bundle, [_FP16], _quiet, run=again)


def test_a_folder_without_a_manifest(own_bundle, work_here):
    (own_bundle / "diffoundry.json").unlink()
    with pytest.raises(BundleError, match="got a folder without diffoundry.json, expected a bundle"):
        add_engines(own_bundle, [_FP16], _quiet, run=work_here)


@pytest.mark.slow
def test_the_command_adds_engines_and_names_them(own_bundle, capsys):
    from diffoundry.exporter.cli.build import command

    words = [str(own_bundle), "--target", "onnxruntime", "--precision", "fp16", "--winograd", "false", "--json"]
    command.main(words, standalone_mode=False)
    report = json.loads(capsys.readouterr().out)
    assert report["variants"] == ["onnxruntime fp16"]
    assert Bundle(own_bundle).manifest.components["unet"].engines[1].options["winograd"] is False
