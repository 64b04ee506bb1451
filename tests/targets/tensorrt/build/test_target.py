"""Lowering: plans by the real library, and recipes where it or a GPU is missing."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import pytest
from small_graphs import make_block

from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError, EngineError
from diffoundry.targets.tensorrt.build import build_plan as plan_build
from diffoundry.targets.tensorrt.build import target as target_module
from diffoundry.targets.tensorrt.build.host import Host
from diffoundry.targets.tensorrt.build.job import BuildJob, BuildResult
from diffoundry.targets.tensorrt.build.target import RTXTarget, TensorRTTarget
from diffoundry.targets.tensorrt.cuda import Gpu
from diffoundry.targets.tensorrt.sdk import RTX, TENSORRT, Sdk

ONE = {"compute_capabilities": ("sm89",)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_plan_and_the_map_of_its_weights(rtx, block_work):
    work = block_work("fp16")
    before = contents(work.graph.parent)
    spec = RTXTarget(**ONE).lower(work)
    names = ("unet/model.fp16.tensorrt-rtx.plan", "unet/model.fp16.tensorrt-rtx.refit.json")
    assert spec.files == names
    assert spec.pending is None
    after = contents(work.graph.parent)
    assert {name: after.pop(name.partition("/")[2])[:4] for name in names} == {names[0]: b"vtrt", names[1]: b'{\n "'}
    assert after == before
    assert (spec.target, spec.precision) == ("tensorrt-rtx", "fp16")
    shape = ("batch", 4, "height/8", "width/8")
    assert spec.inputs == (TensorSpec(name="sample", dtype="float32", shape=shape),)
    assert spec.outputs == (TensorSpec(name="out_sample", dtype="float32", shape=shape),)
    assert spec.built_with == {"tensorrt_rtx": rtx.trt.__version__}
    assert spec.options["profiles"] == {
        "64x64": {"batch": (1, 2, 4), "height": (64, 64, 64), "width": (64, 64, 64), "sequence": (77, 77, 77)}
    }
    assert spec.options["compute_capabilities"] == ("sm89",)
    assert spec.metadata["built_for"] == ["sm89"]
    assert spec.metadata["proof"] == "compiled without a GPU, never run"
    assert (spec.metadata["attentions"], spec.metadata["group_norms"]) == (1, 1)
    assert spec.metadata["structure"]["64x64"]["attentions_fused"] == 1
    assert spec.metadata["peak_rss_bytes"] > spec.metadata["plan_bytes"]
    weights = json.loads((work.bundle / names[1]).read_text())
    assert weights["format_version"] == 2
    entry = {"parameter": "to_q_weight", "transform": "none", "dtype": "float16"}
    assert weights["weights"]["to_q_weight"].items() >= entry.items()
    assert weights["weights"]["to_q_weight"]["file"] is None  # only where weights are refitted
    assert json.dumps(to_json(spec))


def test_the_same_build_comes_from_the_cache(rtx, block_work, user_cache):
    work = block_work("fp16")
    first = RTXTarget(**ONE).lower(work)
    plan = (work.bundle / first.files[0]).read_bytes()
    (work.bundle / first.files[0]).unlink()
    second = RTXTarget(**ONE).lower(work)
    assert (first.metadata["from_cache"], second.metadata["from_cache"]) == (False, True)
    assert (work.bundle / first.files[0]).read_bytes() == plan
    assert {**second.metadata, "from_cache": False} == first.metadata
    assert len(list(user_cache.glob("*.plan"))) == 1
    assert not RTXTarget(compute_capabilities=("sm86",)).lower(work).metadata["from_cache"]


def test_by_default_it_is_built_for_the_cards_that_compute_in_the_precision(rtx, block_work):
    assert RTXTarget().lower(block_work("fp16")).metadata["built_for"] == ["sm86", "sm89", "sm120"]
    assert RTXTarget().lower(block_work("fp8")).metadata["built_for"] == ["sm89", "sm120"]


def test_several_profiles_of_the_user_are_built_into_one_plan(rtx, block_work):
    profiles = {"small": {"height": [64, 64, 128], "width": [64, 64, 128]}, "one": {"batch": [1, 1, 1]}}
    spec = RTXTarget(**ONE, profiles=profiles).lower(block_work("fp16", buckets=()))
    assert list(spec.options["profiles"]) == list(spec.metadata["structure"]) == ["small", "one"]
    assert spec.options["profiles"]["one"]["height"] == (256, 512, 768)


def test_weight_streaming_builds_without_a_gpu_also_with_a_budget_of_nothing(rtx, block_work):
    spec = RTXTarget(**ONE, weight_streaming=0).lower(block_work("fp16"))
    assert spec.pending is None
    assert spec.options["weight_streaming"] == 0
    assert not RTXTarget(**ONE).lower(block_work("fp16")).metadata["from_cache"]


def test_a_graph_that_tensorrt_does_not_take_is_refused_with_the_reasons(block_work):
    work = block_work()
    model = ir.load(work.graph)
    model.opset_imports["acme"] = 1
    ir.save(model, work.graph)
    with pytest.raises(
        EngineError, match=r"target 'tensorrt' cannot take .*model\.onnx: the graph has operators of 'ac"
    ):
        TensorRTTarget().lower(work)


def test_profiles_and_buckets_at_once_are_refused(block_work):
    with pytest.raises(ConfigError, match="got them together with buckets"):
        RTXTarget(profiles={"a": {}}).lower(block_work())


def test_without_tensorrt_a_recipe_is_left_that_says_what_to_do(block_work):
    assert importlib.util.find_spec("tensorrt") is None
    work = block_work("fp16")
    spec = TensorRTTarget(refit=True).lower(work)
    assert spec.pending == (
        "TensorRT is not installed: on the GPU machine, install diffoundry with its extra 'tensorrt' and run "
        "'diffoundry build DIR'; to compile on this machine, '--target tensorrt-rtx' builds without a GPU "
        "for GeForce and RTX cards (sm75, sm80, sm86, sm89, sm120, sm121)"
    )
    assert spec.files == (
        "unet/model.fp16.tensorrt.job.json",
        "unet/model.fp16.tensorrt.refit.json",
        "unet/model.fp16.tensorrt.onnx",
        "unet/model.fp16.onnx_data",
    )
    assert spec.built_with == {}
    assert spec.metadata == {"attentions": 1, "group_norms": 1, "proof": "not built"}
    job = from_json(BuildJob, json.loads((work.bundle / spec.files[0]).read_text()))
    assert (job.target, job.graph, job.plan) == ("tensorrt", "model.fp16.tensorrt.onnx", "model.fp16.tensorrt.plan")
    assert job.flags == ("REFIT_INDIVIDUAL",)
    assert "to_q_weight" in job.refittable
    operators = {node.op_type for node in ir.load(work.bundle / spec.files[2]).graph}
    assert "Softmax" in operators
    assert "Attention" not in operators


def test_the_recipe_is_all_that_a_build_needs(rtx, block_work, tmp_path):
    work = block_work("fp16")
    spec = TensorRTTarget().lower(work)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in spec.files:
        (work.bundle / name).rename(elsewhere / name.partition("/")[2])
    recipe = elsewhere / "model.fp16.tensorrt.job.json"
    job = json.loads(recipe.read_text())
    recipe.write_text(json.dumps(job | {"target": "tensorrt-rtx", "compute_capabilities": [89]}))
    command = [sys.executable, "-m", "diffoundry.targets.tensorrt.build.worker", str(recipe)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        worker.stdout.read()
        assert worker.wait() == 0
        worker.stdin.close()
    assert (elsewhere / "model.fp16.tensorrt.plan").read_bytes()[:4] == b"vtrt"


class MissingRTX(RTXTarget):
    """TensorRT for RTX where it is not installed."""

    sdk: ClassVar[Sdk] = replace(RTX, module="tensorrt_rtx_that_is_not_there")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (
            MissingRTX(),
            r"TensorRT for RTX is not installed: install diffoundry with its extra 'tensorrt-rtx', which needs no GPU",
        ),
        (
            RTXTarget(refit=True),
            r"cuda-python, which finds the GPU, is not installed|needs a GPU to build with --refit: on",
        ),
        (
            RTXTarget(strip_plan=True),
            r"cuda-python, which finds the GPU, is not|needs a GPU to build with --strip-plan: on",
        ),
    ],
)
def test_what_else_is_missing_is_said(block_work, target, sentence):
    spec = target.lower(block_work("fp16"))
    assert spec.files[0] == "unet/model.fp16.tensorrt-rtx.job.json"
    assert re.search(sentence, spec.pending)


@pytest.mark.parametrize(
    ("sdk", "options", "place", "sentence"),
    [
        (
            TENSORRT,
            (),
            {"has_cuda": False},
            "cuda-python, which finds the GPU, is not installed: install diffoundry with its extra",
        ),
        (TENSORRT, (), {}, "TensorRT builds on the GPU that will run the engine, and here is none: on the GPU machine"),
        (
            RTX,
            ("--refit", "--strip-plan"),
            {},
            "needs a GPU to build with --refit and --strip-plan: on the GPU machine",
        ),
        (RTX, (), {}, None),
        (TENSORRT, (), {"gpus": (Gpu(index=0, capability=90, name="H100"),)}, None),
        (RTX, ("--refit",), {"gpus": (Gpu(index=0, capability=89, name="RTX 4090"),)}, None),
    ],
)
def test_each_obstacle_has_a_sentence(sdk, options, place, sentence):
    given = {"version": "11.4", "gpus": (), "has_cuda": True} | place
    said = Host(sdk=sdk, **given).obstacle(options)
    assert said is None if sentence is None else said.startswith(sentence) or sentence in said


def on_a_gpu_machine(monkeypatch, gpu):
    """A machine with TensorRT 11.4 and a GPU, whose builds write a stand-in; returns the jobs that were built."""
    jobs = []

    def build(job, progress, where):
        jobs.append(job)
        Path(job.plan).write_bytes(b"plan")
        return BuildResult(metadata={"plan_bytes": 4}, warnings=("a remark",))

    place = Host(sdk=TENSORRT, version="11.4.0.106", gpus=(gpu,), has_cuda=True)
    monkeypatch.setattr(target_module, "find_host", lambda sdk: place)
    monkeypatch.setattr(plan_build, "run_worker", build)
    return jobs


def test_a_pending_engine_is_finished_on_the_gpu_machine(block_work, monkeypatch, user_cache):
    work = block_work("fp16")
    options = {"refit": True, "weight_streaming": 1.5, "version_compatible": True}
    assert TensorRTTarget(**options).lower(work).pending
    jobs = on_a_gpu_machine(monkeypatch, Gpu(index=0, capability=89, name="RTX 4090"))
    spec = TensorRTTarget(**options).lower(work)
    assert spec.pending is None
    assert spec.files == ("unet/model.fp16.tensorrt.plan", "unet/model.fp16.tensorrt.refit.json")
    assert sorted(path.name for path in work.graph.parent.iterdir()) == [
        "model.fp16.onnx", "model.fp16.onnx_data", "model.fp16.tensorrt.plan", "model.fp16.tensorrt.refit.json",
    ]  # fmt: skip
    assert spec.built_with == {"tensorrt": "11.4.0.106"}
    assert spec.metadata["built_for"] == ["RTX 4090 sm89"]
    assert spec.metadata["proof"] == "compiled on its GPU"
    assert spec.metadata["warnings"] == ["a remark"]
    (job,) = jobs
    assert set(job.flags) == {"REFIT_INDIVIDUAL", "WEIGHT_STREAMING", "VERSION_COMPATIBLE"}
    assert job.compute_capabilities == ()
    assert job.timing_cache == str(user_cache / "timing 11.4.0.106 RTX 4090 sm89.cache")
    on_a_gpu_machine(monkeypatch, Gpu(index=0, capability=86, name="RTX 3090"))
    assert not TensorRTTarget(**options).lower(work).metadata["from_cache"]


def test_a_stripped_plan_keeps_its_graph_and_weights(block_work, monkeypatch):
    on_a_gpu_machine(monkeypatch, Gpu(index=0, capability=89, name="RTX 4090"))
    spec = TensorRTTarget(strip_plan=True).lower(block_work("fp16"))
    assert spec.files == (
        "unet/model.fp16.tensorrt.plan",
        "unet/model.fp16.tensorrt.refit.json",
        "unet/model.fp16.tensorrt.onnx",
        "unet/model.fp16.onnx_data",
    )


def test_a_gpu_that_does_not_compute_in_the_precision_is_refused(block_work, monkeypatch):
    on_a_gpu_machine(monkeypatch, Gpu(index=0, capability=75, name="T4"))
    with pytest.raises(
        EngineError,
        match=r"unet in bf16: got the GPU T4, expected one that computes in it: sm75 cannot compute in bf16",
    ):
        TensorRTTarget().lower(block_work("bf16"))


def test_nothing_of_a_component_is_computed_to_say_what_it_does_not_take():
    assert TensorRTTarget().unsupported(make_block()) == []
    assert TensorRTTarget().complete(None) is None
