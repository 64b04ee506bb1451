"""A bundle for a GPU machine, from the sentence that it is not built to the build that finishes it there."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from diffoundry.exporter.add_engines import add_engines, pending_variants
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.engines.select import select_engine
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.targets.tensorrt.build import build_plan as plan_build
from diffoundry.targets.tensorrt.build import target as target_module
from diffoundry.targets.tensorrt.build.host import Host
from diffoundry.targets.tensorrt.build.job import BuildResult
from diffoundry.targets.tensorrt.cuda import Gpu
from diffoundry.targets.tensorrt.sdk import TENSORRT

FP16 = Variant(target="tensorrt", precision="fp16", options={"weight_streaming": 0})


@pytest.fixture
def bundle(exported, tiny_sd_checkpoint, tmp_path):
    return Path(shutil.copytree(exported(tiny_sd_checkpoint()), tmp_path / "b"))


def engines(manifest):
    return {
        name: next(engine for engine in component.engines if engine.target == "tensorrt")
        for name, component in manifest.components.items()
    }


def test_a_bundle_waits_for_the_gpu_machine_and_is_finished_there(bundle, work_here, monkeypatch):
    report = add_engines(bundle, [FP16], lambda *_: None, run=work_here)
    waiting = engines(report.manifest)
    assert len(waiting) == 4
    assert all("TensorRT is not installed: on the GPU machine" in engine.pending for engine in waiting.values())
    assert pending_variants(report.manifest) == (FP16,)
    opened = Bundle(bundle)
    for engine in waiting.values():
        assert [opened.file(file) for file in engine.files]
    with pytest.raises(EngineError, match=r"not built yet \(TensorRT is not installed.* run 'diffoundry build' on the"):
        select_engine("unet", (waiting["unet"],))

    flags = []

    def build(job, progress, where):
        flags.append(job.flags)
        assert Path(job.graph).is_absolute()  # the worker reads its job in a folder of its own
        Path(job.plan).write_bytes(b"plan of " + where.encode())
        return BuildResult(metadata={"plan_bytes": 4})

    gpu = Gpu(index=0, capability=89, name="RTX 4090")
    place = Host(sdk=TENSORRT, version="11.4.0.106", gpus=(gpu,), has_cuda=True)
    monkeypatch.setattr(target_module, "find_host", lambda sdk: place)
    monkeypatch.setattr(plan_build, "run_worker", build)
    monkeypatch.chdir(bundle.parent)
    finished = add_engines(Path(bundle.name), (), lambda *_: None, run=work_here).manifest
    assert flags == [("WEIGHT_STREAMING",)] * 4
    assert pending_variants(finished) == ()
    opened = Bundle(bundle)
    for name, engine in engines(finished).items():
        assert opened.file(engine.files[0]).read_bytes() == f"plan of {name} in fp16".encode()
        assert not list((bundle / name).glob("*.job.json"))
    assert not any("tensorrt.onnx" in name for name in finished.files)
    with pytest.raises(InputError, match="no engine is pending"):
        add_engines(bundle, (), lambda *_: None, run=work_here)


@pytest.mark.slow
def test_two_precisions_of_rtx_live_in_one_bundle(rtx, bundle, work_here):
    """Only the text encoder is built for real: the other components would take a minute and show nothing more."""

    def work(job, progress):
        if job.component == "text_encoder":
            return work_here(job, progress)
        waiting = work_here(replace(job, variant=replace(job.variant, target="tensorrt", options={})), progress)
        return replace(waiting, engine=replace(waiting.engine, target="tensorrt-rtx"))

    options = {"compute_capabilities": ["sm89"]}
    builds = [Variant(target="tensorrt-rtx", precision=word, options=options) for word in ("fp16", "bf16")]
    manifest = add_engines(bundle, builds, lambda *_: None, run=work).manifest
    built = [engine for engine in manifest.components["text_encoder"].engines if engine.target == "tensorrt-rtx"]
    assert [engine.files[0] for engine in built] == [
        "text_encoder/model.fp16.tensorrt-rtx.plan",
        "text_encoder/model.bf16.tensorrt-rtx.plan",
    ]
    assert [engine.metadata["structure"]["default"]["attentions_fused"] for engine in built] == [2, 2]
    with pytest.raises(EngineError, match="tensorrt-rtx fp16: it has no device on this machine"):
        select_engine("text_encoder", tuple(built))
