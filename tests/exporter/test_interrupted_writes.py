"""`build --overwrite` and `export --overwrite` that end at any step of the file system leave a bundle, and complete."""

import shutil
from dataclasses import replace

import pytest
from kill_points import end_at_step

from diffoundry.exporter import work_folder
from diffoundry.exporter.add_engines import add_engines
from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.export import export
from diffoundry.exporter.jobs.job import JobResult, PortableJob
from diffoundry.exporter.request import ExportRequest
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.manifest import dump_manifest
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import BundleError

_SWAPS = [pytest.param(True, id="exchange"), pytest.param(False, id="two renames")]


def _quiet(*_words):
    pass


def _open_whole(path) -> str:
    """Check every sum of a bundle, and return its manifest's text."""
    bundle = Bundle(path)
    for name in bundle.manifest.files:
        bundle.file(name)
    return (path / "diffoundry.json").read_text()


def _replay(source):
    """Do jobs by copying the files of a finished bundle: what they compute is not the matter here."""
    manifest = Bundle(source).manifest

    def run(job, _progress):
        spec = manifest.components[job.component]
        portable = isinstance(job, PortableJob)
        engine = None if portable else replace(spec.engines[0], options=dict(job.variant.options))
        result = JobResult(graph=spec.graph) if portable else JobResult(engine=engine)
        for name in result.files:
            if portable or name not in spec.graph:
                shutil.copyfile(source / name, f"{job.folder}/{name}")
        return result

    return run


@pytest.fixture(scope="module")
def small_bundle(exported, tiny_sd_checkpoint, tmp_path_factory):
    """The text encoder, scheduler and tokenizer of a tiny bundle."""
    source = exported(tiny_sd_checkpoint())
    manifest = Bundle(source).manifest
    name = "text_encoder"
    files = {file: spec for file, spec in manifest.files.items() if not file.startswith(("unet/", "vae_"))}
    small = tmp_path_factory.mktemp("small") / "s.bundle"
    for file in files:
        (small / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, small / file)
    kept = replace(manifest, components={name: manifest.components[name]}, files=files)
    (small / "diffoundry.json").write_text(dump_manifest(kept))
    return small


_NEVER = 10**9


def _count_steps(old, command, root, more) -> int:
    shutil.copytree(old, root / "b")
    return end_at_step(_NEVER, root, lambda: command(root / "b"), power=False, more=more)


def _end_at(number, old, command, root, more):
    """End a command at a step; the folder then holds the old bundle or the new one, and the command completes."""
    place = root / "b"
    shutil.copytree(old, place)
    before = _open_whole(place)
    end_at_step(number, root, lambda: command(place), power=number % 2 == 0, more=more)
    found = _open_whole(place) if more or place.exists() else None
    if found is None:  # between two renames: what is there is named
        with pytest.raises(BundleError, match="an interrupted command left .*; run the same command again"):
            Bundle(place)
    command(place)
    after = _open_whole(place)
    assert after != before
    assert found in (before, after, None)
    assert [path.name for path in root.iterdir()] == ["b"]
    assert not list(place.rglob(".*"))
    shutil.rmtree(root)


def _some(count: int) -> list[int]:
    """Every step of the swap, which are the last, and a few before."""
    return sorted({*range(3, count, count // 6), *range(count - 8, count + 1)})


@pytest.fixture
def swaps(request, monkeypatch):
    """Steps beside those of `os`: the exchange of two folders, or none on a file system that lacks it."""
    if request.param:
        return [(work_folder, "exchange")]
    monkeypatch.setattr(work_folder, "exchange", lambda *_: False)
    return []


def _build(small):
    variant = Variant(target="onnxruntime", precision="fp32", options={"winograd": False})
    return lambda place: add_engines(place, [variant], _quiet, overwrite=True, run=_replay(small))


def _export(folder, whole):
    checkpoint, run = open_checkpoint(str(folder)), _replay(whole)
    variant = Variant(target="onnxruntime", precision="fp32", options={"winograd": False})
    request = ExportRequest(variants=(variant,), overwrite=True)
    return lambda place: export(checkpoint, request, place, _quiet, run=run)


@pytest.mark.slow_cases("two renames")
@pytest.mark.parametrize("swaps", _SWAPS, indirect=True)
def test_build_overwrite_ends_at_some_steps(small_bundle, tmp_path, swaps):
    command = _build(small_bundle)
    count = _count_steps(small_bundle, command, tmp_path / "count", swaps)
    assert count > 90
    for number in _some(count):
        _end_at(number, small_bundle, command, tmp_path / str(number), swaps)


@pytest.mark.slow
@pytest.mark.parametrize("swaps", _SWAPS, indirect=True)
def test_build_overwrite_ends_anywhere(small_bundle, tmp_path, swaps):
    command = _build(small_bundle)
    for number in range(1, _count_steps(small_bundle, command, tmp_path / "count", swaps) + 1):
        _end_at(number, small_bundle, command, tmp_path / str(number), swaps)


@pytest.mark.slow
@pytest.mark.parametrize("swaps", _SWAPS, indirect=True)
def test_export_overwrite_ends_anywhere(exported, tiny_sd_checkpoint, tmp_path, swaps):
    whole = exported(tiny_sd_checkpoint())
    command = _export(tiny_sd_checkpoint(), whole)
    for number in range(1, _count_steps(whole, command, tmp_path / "count", swaps) + 1):
        _end_at(number, whole, command, tmp_path / str(number), swaps)
