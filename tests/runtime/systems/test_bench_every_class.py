"""`diffoundry bench --against torch-fp32` on a tiny checkpoint of every pipeline class."""

import json

import pytest
from class_checkpoints import CLASS_CHECKPOINTS
from click.testing import CliRunner

from diffoundry.exporter.reference.baseline import TorchCandidate
from diffoundry.exporter.reference.torch_benchmark import TorchBenchmark
from diffoundry.runtime import load
from diffoundry.runtime.bench.candidate import Load
from diffoundry.runtime.cli.bench import command
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE

STEPS = 4
"""PNDM takes no fewer."""


def test_every_class_has_a_checkpoint():
    assert CLASS_CHECKPOINTS.keys() == {name for entry in FAMILY_TABLE for name in entry.classes}


@pytest.fixture
def _torch_here(monkeypatch):
    """Run PyTorch in this process, because a process of its own costs seconds."""

    def load_here(self):
        self.benchmark = TorchBenchmark(self._job)
        return Load(total=0.0, open=0.0, components={})

    monkeypatch.setattr(TorchCandidate, "load", load_here)
    monkeypatch.setattr(TorchCandidate, "_ask", lambda self, question: getattr(self.benchmark, question)())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_torch_here")
@pytest.mark.parametrize("name", CLASS_CHECKPOINTS)
def test_bench_measures_the_image_of_pytorch(class_bundle, name):
    folder = class_bundle(name)
    pipeline = load(folder)
    assert pipeline.session.bundle.pipeline_class == name
    size = CLASS_CHECKPOINTS[name].size
    sides = [] if size is None else [f"--height={size[0]}", f"--width={size[1]}"]
    few = [f"--steps={STEPS}", "--guidance-scale=3", "--repeats=1", "--warmups=0", "--threads=1", "--json"]
    result = CliRunner().invoke(command, [str(folder), *few, *sides, "--against=torch-fp32"])
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)
    ours, theirs = report["candidates"]
    assert theirs["failure"] is None
    work = report["work"]
    if pipeline.makes_images:
        assert (work["height"], work["width"]) == (size or pipeline.default_size)
    distance = ours["measured"]["distance"]
    assert distance["max_abs"] == 0 or distance["psnr"] > 60
    assert len(ours["measured"]["components"]) >= len(pipeline.used_components) - 1
