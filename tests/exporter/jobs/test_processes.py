"""What a worker says of itself when its job is done."""

import shutil

from diffoundry.exporter.jobs.job import EngineJob
from diffoundry.exporter.jobs.processes import run_job
from diffoundry.runtime.bundle.specs import Variant


def test_memory_is_the_workers_own(exported, tiny_sd_checkpoint, tmp_path):
    """getrusage's figure would be that of the process that started it, which is larger here."""
    job = EngineJob(
        component="text_encoder",
        build=Variant(target="onnxruntime", precision="fp32"),
        first=True,
        dims={},
        buckets=(),
        quantization=None,
        folder=str(shutil.copytree(exported(tiny_sd_checkpoint()), tmp_path / "own.bundle")),
    )
    held = b"\1" * (2 << 30)
    outcome = run_job(job, lambda *_words: None)
    assert len(held) == 2 << 30
    assert 30 << 20 < outcome.peak_rss < 1 << 30
    assert outcome.seconds.keys() == {"convert", "lower"}
