"""Processes of jobs: what they report, and how they end."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from diffoundry.exporter.jobs.job import EngineJob
from diffoundry.exporter.jobs.processes import JobProcesses
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import BundleError

START = pytest.mark.parametrize("fork", [True, False], ids=["forked", "spawned"])


@pytest.fixture
def job(exported, tiny_sd_checkpoint, tmp_path):
    """A job that takes a second."""
    return EngineJob(
        component="text_encoder",
        role="text_encoder",
        variant=Variant(target="onnxruntime", precision="fp32"),
        first=True,
        dims={},
        buckets=(),
        quantization=None,
        folder=str(shutil.copytree(exported(tiny_sd_checkpoint()), tmp_path / "own.bundle")),
    )


def _descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [one for child in children for one in _descendants(int(child))]


@pytest.mark.slow
@START
def test_memory_is_the_workers_own(job, fork):
    """getrusage's figure would be that of the process that started it, which is larger here."""
    held = b"\1" * (1 << 30)
    with JobProcesses(fork=fork) as run_job:
        result = run_job(job, lambda *_words: None)
    assert len(held) == 1 << 30
    assert 30 << 20 < result.peak_rss < 1 << 30
    assert result.seconds.keys() == {"convert", "lower"}
    assert result.engine.target == "onnxruntime"


@pytest.mark.slow_cases("spawned")
@START
def test_an_error_is_one_sentence_and_the_next_job_runs(job, fork):
    graph = Path(job.folder) / "text_encoder/model.onnx"
    moved = graph.rename(graph.with_name("away"))
    with JobProcesses(fork=fork) as run_job:
        with pytest.raises(BundleError, match="text_encoder, onnxruntime fp32"):
            run_job(job, lambda *_words: None)
        moved.rename(graph)
        assert run_job(job, lambda *_words: None).engine is not None


@pytest.mark.slow_cases("spawned")
@START
def test_a_killed_worker_is_reported_and_the_next_job_runs(job, fork):
    phases = []

    def kill(_label, phase):
        phases.append(phase)
        worker = _descendants(os.getpid())[-1]
        os.kill(worker, signal.SIGKILL)

    with JobProcesses(fork=fork) as run_job:
        with pytest.raises(BundleError, match="was killed, most likely because memory ran out; finished jobs"):
            run_job(job, kill)
        assert phases
        assert run_job(job, lambda *_words: None).engine is not None
    assert _descendants(os.getpid()) == []


def test_jobs_are_forked_from_one_process_without_threads(job):
    parents = set()

    def note(_label, _phase):
        server, _ = _descendants(os.getpid())
        parents.add((server, len(os.listdir(f"/proc/{server}/task"))))

    with JobProcesses() as run_job:
        for _ in range(2):
            run_job(job, note)
    assert len(parents) == 1
    assert {threads for _, threads in parents} == {1}


@pytest.mark.slow_cases("spawned")
@START
def test_an_interrupt_ends_every_process(job, fork):
    def interrupt(_label, _phase):
        raise KeyboardInterrupt

    before = threading.active_count()
    with JobProcesses(fork=fork) as run_job, pytest.raises(KeyboardInterrupt):
        run_job(job, interrupt)
    deadline = time.monotonic() + 30
    while _descendants(os.getpid()):
        assert time.monotonic() < deadline, "an interrupted export left a process running"
        time.sleep(0.05)
    assert threading.active_count() == before
