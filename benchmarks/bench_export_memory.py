"""Exports components of a model with random weights, and prints seconds, peak memory and bytes of every job.

python benchmarks/bench_export_memory.py MODEL [--engine openvino:bf16]... [--only COMPONENT]... [--without NAME]...

Peaks are the largest resident memory of the process of a job, mapped files included. Each component is traced, lowered
for one engine after another, and removed: the disk holds one component, its form and one engine. Nothing is calibrated,
so integers are those of the weights, in every layer.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lib.interleaved import machine

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.component import Component
from diffoundry.exporter.jobs.job import EngineJob, JobResult, PortableJob
from diffoundry.exporter.jobs.processes import JobProcesses
from diffoundry.exporter.passes import OPSET
from diffoundry.runtime.bundle.specs import Variant


def main() -> None:
    """Run the jobs, print a row for each, and remove what they wrote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an alias")
    parser.add_argument("--engine", action="append", default=[], help="target:precision; several times")
    parser.add_argument("--only", action="append", default=[], help="a component; all without it")
    parser.add_argument("--without", action="append", default=[], help="a part of the checkpoint that is left out")
    parser.add_argument(
        "--folder", type=Path, help="where the files are made; the folder of temporary files without it"
    )
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    checkpoint = open_checkpoint(asked.model, random_weights=True, without=tuple(asked.without))
    components = [one for one in checkpoint.components if not asked.only or one.name in asked.only]
    rows = {}
    print(f"{machine()}; {asked.model}", flush=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder, JobProcesses() as processes:
        _copy_configs(checkpoint, Path(folder))
        for component in components:
            for label, result in _run(checkpoint, component, asked.engine, Path(folder), processes):
                size = sum((Path(folder) / file).stat().st_size for file in result.files)
                rows[label] = {"seconds": result.seconds, "peak_rss_bytes": result.peak_rss, "bytes": size}
                seconds, peak = sum(result.seconds.values()), result.peak_rss / 1e9
                print(f"{label:<44}{seconds:>8.1f} s{peak:>8.2f} GB{size / 1e9:>8.2f} GB written", flush=True)
            shutil.rmtree(Path(folder) / component.name)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


def _copy_configs(checkpoint: Checkpoint, folder: Path) -> None:
    for source, name in checkpoint.bundle_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)


def _run(
    checkpoint: Checkpoint, component: Component, engines: list[str], folder: Path, processes: JobProcesses
) -> Iterator[tuple[str, JobResult]]:
    """Run the jobs of a component; the files of an engine are removed before the next one is made."""
    (folder / component.name).mkdir(exist_ok=True)
    job = PortableJob(
        checkpoint=checkpoint.describe(), component=component.name, opset=OPSET, dims={}, folder=str(folder)
    )
    yield job.label, processes(job, lambda *_words: None)
    portable = set((folder / component.name).iterdir())
    for engine in engines:
        target, _, precision = engine.partition(":")
        lower = EngineJob(
            component=component.name,
            role=component.role,
            variant=Variant(target=target, precision=precision),
            first=True,
            dims={},
            buckets=(),
            quantization=None,
            folder=str(folder),
        )
        yield lower.label, processes(lower, lambda *_words: None)
        for path in set((folder / component.name).iterdir()) - portable:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
