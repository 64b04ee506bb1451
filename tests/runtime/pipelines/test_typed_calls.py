"""Calls are typed: type checkers, completion and `help` know every argument, and the images' type."""

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import ForwardRef

import pytest

import diffoundry
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.pipelines.attention.control import AttentionInputs
from diffoundry.runtime.pipelines.call_arguments import CallArguments
from diffoundry.runtime.pipelines.controlnet_inputs import ControlNetInputs
from diffoundry.runtime.pipelines.inputs import CommonInputs
from diffoundry.runtime.pipelines.ip_adapter_inputs import ImagePromptInputs
from diffoundry.runtime.pipelines.pipeline import DiffusionPipeline
from diffoundry.runtime.pipelines.registry import FAMILY_TABLE
from diffoundry.runtime.pipelines.staged import StagedPipeline
from diffoundry.runtime.pipelines.staged_call import RunInputs
from diffoundry.runtime.pipelines.t2i_adapter import T2IAdapterInputs
from diffoundry.runtime.pipelines.tasks import TASKS

RUNTIME = Path(diffoundry.runtime.__file__).parent
NAMED = {"prompt", "output_type"}
JOINED = (ControlNetInputs, T2IAdapterInputs, ImagePromptInputs)

SNIPPET = """
from diffoundry import load
from diffoundry.runtime.schedulers import EulerDiscreteScheduler

pipe = load("x.bundle", device="cpu", threads=2)
pipe("a", num_inference_steps=3, seed=1, scheduler="euler_a").images[0].save("a.png")
pipe("a", output_type="np").images.mean()
pipe.start("a", output_type="latent").finish().images.shape
pipe.start("a").preview()[0].save("b.png")
images, flags = pipe("a", return_dict=False)
pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
pipe.scheduler = "euler"
pipe("a", num_step=3)
pipe("a", seeed=1)
pipe("a", num_inference_steps="3")
pipe("a", output_type="np").images.save("a.png")
pipe.start("a", negative_promt="b")
pipe.shceduler
"""


def test_the_signature_has_every_argument_of_every_family_and_task():
    found = [resolve(entry.runtime) for entry in FAMILY_TABLE]
    systems = [one for kind in found if issubclass(kind, StagedPipeline) for one in kind.input_classes()]
    families = [kind.Inputs for kind in found if not issubclass(kind, StagedPipeline)]
    kinds = [CommonInputs, RunInputs, AttentionInputs, *JOINED, *TASKS, *families, *systems]
    known = {field.name for kind in kinds for field in fields(kind)} - NAMED
    assert set(CallArguments.__annotations__) == known
    for method, more in ((DiffusionPipeline.__call__, {"self", "return_dict"}), (DiffusionPipeline.start, {"self"})):
        assert set(inspect.signature(method).parameters) == known | NAMED | more


def test_annotations_are_those_of_the_inputs():
    own = {field.name: field.type for kind in (CommonInputs, *JOINED) for field in fields(kind)}
    typed = {name: hint for name, hint in CallArguments.__annotations__.items() if not isinstance(hint, ForwardRef)}
    shared = sorted(own.keys() & typed.keys())
    assert len(shared) > 15
    assert [(name, typed[name]) for name in shared] == [(name, own[name]) for name in shared]


@pytest.mark.slow
def test_mypy_finds_misspelled_arguments(tmp_path):
    package = tmp_path / "path" / "diffoundry"
    package.mkdir(parents=True)
    for ending in (".py", ".pyi"):
        (package / f"__init__{ending}").write_text(Path(diffoundry.__file__).with_suffix(ending).read_text())
    (package / "runtime").symlink_to(RUNTIME)
    (tmp_path / "snippet.py").write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--cache-dir", tmp_path / "cache"]
    environment = {"MYPYPATH": str(tmp_path / "path"), "PATH": ""}
    run = subprocess.run([*command, "snippet.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    errors = [line for line in run.stdout.splitlines() if line.startswith("snippet.py") and ": error:" in line]
    wrong = dict.fromkeys(SNIPPET.splitlines()[int(error.split(":")[1]) - 1] for error in errors)
    assert list(wrong) == SNIPPET.splitlines()[-6:], "\n".join(errors)
    assert 'did you mean "seed"?' in run.stdout
