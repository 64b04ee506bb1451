"""Builds in a process of their own, by the real library: progress, cancelling, refusals, and a process that dies."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import onnx_ir as ir
import pytest
from small_graphs import in_form, make_block

from diffoundry.runtime.bundle.json_codec import to_json
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.tensorrt.build import run_worker as build_process
from diffoundry.targets.tensorrt.build.job import BuildJob, ProfileShapes
from diffoundry.targets.tensorrt.build.run_worker import run_worker
from diffoundry.targets.tensorrt.build.target import RTXTarget

pytestmark = pytest.mark.usefixtures("rtx")

SHAPES = {"sample": ((1, 4, 8, 8), (2, 4, 8, 8), (2, 4, 16, 16))}


@pytest.fixture
def job(tmp_path):
    graph = tmp_path / "g.onnx"
    ir.save(in_form(make_block(), RTXTarget().form("fp16")), graph)
    return BuildJob(
        target="tensorrt-rtx",
        graph=str(graph),
        plan=str(tmp_path / "g.plan"),
        profiles=(ProfileShapes(name="default", shapes=SHAPES),),
        compute_capabilities=(86, 89),
    )


def children():
    """Processes of ours that still run."""
    found = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if "tensorrt.builder" in line]


def test_a_build_writes_a_plan_and_tells_how_far_it_is(job, tmp_path):
    shown = []
    result = run_worker(job, shown.append, "unet in fp16")
    plan = (tmp_path / "g.plan").read_bytes()
    assert plan[:4] == b"vtrt"
    assert result.metadata["plan_bytes"] == len(plan)
    assert result.metadata["structure"]["default"]["attentions_fused"] == 1
    assert shown[0] == "fusing 0 %"
    assert any(words.startswith("compiling") for words in shown)
    assert len(shown) == len(set(shown))


def test_an_exception_while_telling_cancels_and_leaves_no_process(job, tmp_path):
    def progress(_words):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(job, progress, "unet")
    assert children() == []
    assert not (tmp_path / "g.plan").exists()


def test_the_builder_stops_at_the_next_step_when_it_is_told_to(job, tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(to_json(job)))
    command = [sys.executable, "-m", "diffoundry.targets.tensorrt.build.worker", str(path)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker.stdin.write("cancel\n")
    worker.stdin.flush()
    lines = [json.loads(line) for line in worker.stdout if line.startswith("{")]
    worker.stdin.close()
    failure = lines[-1]["result"]["failure"]
    assert failure["cancelled"]
    assert failure["message"] == "Build canceled by user"
    assert worker.wait(30) == 1


def test_the_builder_ends_when_its_parent_is_gone(job, tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(to_json(job)))
    command = [sys.executable, "-m", "diffoundry.targets.tensorrt.build.worker", str(path)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker.stdout.readline()
    worker.stdin.close()
    assert worker.wait(30) == 1
    assert not (tmp_path / "g.plan").exists()


def test_a_refusal_names_component_node_operator_and_what_to_do(job, tmp_path):
    model = ir.load(job.graph)
    resize = ir.node("Resize", [model.graph.inputs[0], None, None], {"antialias": 1}, name="block/Resize_x")
    sizes = ir.Value(name="scales", const_value=ir.tensor([1.0, 1.0, 0.5, 0.5], name="scales"))
    model.graph.register_initializer(sizes)
    resize.replace_input_with(2, sizes)
    resize.attributes["mode"] = ir.AttrString("mode", "linear")
    model.graph.append(resize)
    resize.outputs[0].name = "half"
    model.graph.outputs.append(resize.outputs[0])
    ir.save(model, job.graph)
    with pytest.raises(
        EngineError,
        match=r"unet in fp16, node 'block/Resize_x', operator 'Resize': TensorRT for RTX refused it: Antialiasing is "
        r"not supported currently\. What to do: TensorRT resizes without antialiasing only",
    ):
        run_worker(job, lambda _: None, "unet in fp16")


def test_weights_that_the_parser_does_not_know_are_refused(job):
    wrong = replace(job, refittable=("to_q_weight", "nonsense"))
    with pytest.raises(EngineError, match="the parser knows no weights called nonsense. What to do: build without"):
        run_worker(wrong, lambda _: None, "unet")


def test_a_library_that_cannot_be_loaded_is_said(job):
    other = replace(job, target="tensorrt")
    with pytest.raises(
        EngineError, match=r"its Python package .* cannot be loaded: .* pip install .*\[tensorrt\]' --force-reinstall"
    ):
        run_worker(other, lambda _: None, "unet")


def test_a_builder_that_is_killed_is_reported(job, monkeypatch):
    real = subprocess.Popen

    def killed(*arguments, **options):
        worker = real(*arguments, **options)
        worker.stdout.readline()
        os.kill(worker.pid, signal.SIGKILL)
        return worker

    monkeypatch.setattr(build_process.subprocess, "Popen", killed)
    with pytest.raises(
        EngineError,
        match=r"unet: the process that builds the TensorRT for RTX engine was killed, most likely for want of",
    ):
        run_worker(job, lambda _: None, "unet")


def test_a_build_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(build_process, "_PATIENCE", 0.2)
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    worker.stdout.readline()
    started = time.monotonic()
    build_process._stop(worker)
    assert worker.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 30
