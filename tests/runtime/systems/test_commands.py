"""Commands on bundles of these systems: class labels, timesteps, schedulers, and PyTorch beside a benchmark."""

import json
import sys

import numpy as np
import pytest
from pixel_checkpoints import CHECKPOINTS
from tiny_cascade import make_cascade_prior
from tiny_kandinsky import make_prior

from diffoundry.calibration.prompts import seeded_prompts
from diffoundry.exporter.calibrate.generation_tasks import PromptTask
from diffoundry.exporter.reference.baseline import torch_candidates
from diffoundry.exporter.reference.torch_benchmark import TorchBenchmark
from diffoundry.runtime import load
from diffoundry.runtime.bench.bundle_candidate import BundleCandidate
from diffoundry.runtime.bench.request import BenchRequest
from diffoundry.runtime.cli.main import main
from diffoundry.runtime.images.save import read_settings


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder; return its exit code or sentence, and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["diffoundry", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def bundle(system_checkpoint, exported):
    """Factory: the bundle of a checkpoint, the one that other tests use."""
    return lambda name, **more: exported(system_checkpoint(name, CHECKPOINTS[name]), **more)


def test_an_image_keeps_its_classes_and_timesteps(run, bundle, tmp_path):
    folder = bundle("consistency", target="onnxruntime,openvino")
    code, _ = run(
        "generate", folder, *["--class-label", "3", "--timestep", "22", "--timestep", "0", "--seed", "0", "-o", "a.png"]
    )
    assert not code
    settings = read_settings(tmp_path / "a.png")
    assert (settings["class_labels"], settings["timesteps"], settings["steps_run"]) == ([3], [22, 0], 2)
    assert not run("generate", folder, "--like", "a.png", "-o", "b.png")[0]
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    for words, sentence in {
        "--class-label 9": "error: --class-label: got 9, expected the number of a class, 0 to 6",
        "--seed 0": "error: --class-label: got none, expected the number of a class for each image, 0 to 6",
        "--class-label 1 --edit replace": "--edit: got one with a ConsistencyModelPipeline, expected none: only Stable "
        "Diffusion 1.x and 2.x take edits of prompts; leave it out",
        "--class-label 1 --timestep 5000": "set_timesteps: got --timestep [5000], expected integers that descend",
        "--class-label 1 --class-label 2 --num-images 3": "--class-label: got 2 of them, expected one, or 3: one for",
    }.items():
        assert sentence in str(run("generate", folder, *words.split())[0])


def test_only_the_scheduler_of_the_loop_is_listed(run, bundle):
    folder = bundle("karras-ve")
    _, out = run("schedulers", folder)
    assert "KarrasVe" in out
    assert "Euler" not in out
    assert "The loop of KarrasVePipeline runs no other." in out
    found = json.loads(run("schedulers", folder, "--json")[1])
    assert found == {"default": "KarrasVeScheduler", "schedulers": {"KarrasVeScheduler": []}}


def test_a_calibration_sees_many_classes(bundle):
    pipeline = load(bundle("consistency", target="onnxruntime,openvino"), target="onnxruntime")
    prompts = seeded_prompts(tuple("abcdefg"))
    assert len(set(pipeline.varied_arguments([prompt.seed for prompt in prompts])["class_labels"])) == 7
    images = PromptTask(steps=1).generate(pipeline.session, prompts)
    assert images.shape == (7, 8, 8, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "calls"), [("consistency", 2), ("repaint", 3), ("score-sde-ve", 6)])
def test_pytorch_runs_the_same_call_in_a_benchmark(bundle, name, calls):
    more = {"target": "onnxruntime,openvino"} if name == "consistency" else {}
    request = BenchRequest(steps=2)
    (candidate,) = torch_candidates(bundle(name, **more), request, ["torch-fp32"])
    found = TorchBenchmark(candidate._job).generate()
    assert len(found.steps) == len(found.calls["unet"]) == calls
    assert found.image.shape[0] == 1


@pytest.mark.parametrize(
    ("name", "make", "size"),
    [
        ("kandinsky-prior", make_prior, {}),
        pytest.param("cascade-prior", make_cascade_prior, {"height": 128, "width": 128}, marks=pytest.mark.slow),
    ],
)
def test_pytorch_draws_the_embeddings_of_a_prior_as_the_bundle_does(system_checkpoint, exported, name, make, size):
    folder = exported(system_checkpoint(name, make), target="onnxruntime,openvino")
    request = BenchRequest(steps=2, guidance_scale=3.0, **size)
    ours = BundleCandidate(folder, request, target="onnxruntime")
    ours.load()
    expected = ours.generate()
    exact, rounded = torch_candidates(folder, request, ["torch-fp32", "torch-bf16"])
    found = TorchBenchmark(exact._job).generate()
    assert len(found.steps) == len(expected.steps)
    np.testing.assert_allclose(found.image, expected.image, atol=1e-4)
    assert TorchBenchmark(rounded._job).generate().image.shape == expected.image.shape
