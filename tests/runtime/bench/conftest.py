"""A bundle without a manifest whose engines take scripted times on a clock that only they, and the test, advance."""

import dataclasses
import functools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.engines.plugins import TargetPlugin
from diffoundry.runtime.errors import EngineError

_EMOJI = Path(__file__).parents[3] / "models/emoji"


class Clock:
    """Stands still until somebody advances it; `sleep` is noted and takes no time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclasses.dataclass
class Script:
    """Seconds that things take: the next of the list, the last one for ever."""

    opening: dict[str, float]
    calls: dict[str, list[float]]
    outside: list[float] = dataclasses.field(default_factory=lambda: [0.0])
    opened: list[str] = dataclasses.field(default_factory=list)
    fail_at_call: int | None = None
    notes: dict[str, dict[str, str | int]] = dataclasses.field(default_factory=dict)

    def next_call(self, name: str) -> float:
        times = self.calls[name]
        return times.pop(0) if len(times) > 1 else times[0]

    def next_outside(self) -> float:
        return self.outside.pop(0) if len(self.outside) > 1 else self.outside[0]


_TENSORS = {
    "text_encoder": (
        [("input_ids", "int32", ("batch", "sequence"))],
        [("last_hidden_state", "float32", ("batch", "sequence", 4))],
    ),
    "unet": (
        [
            ("sample", "float32", ("batch", 4, "height/8", "width/8")),
            ("timestep", "float32", (1,)),
            ("encoder_hidden_states", "float32", ("batch", "sequence", 4)),
        ],
        [("out_sample", "float32", ("batch", 4, "height/8", "width/8"))],
    ),
    "vae_decoder": (
        [("latent_sample", "float32", ("batch", 4, "height/8", "width/8"))],
        [("sample", "float32", ("batch", 3, "height", "width"))],
    ),
    "vae_encoder": (
        [("sample", "float32", ("batch", 3, "height", "width"))],
        [("latent_parameters", "float32", ("batch", 8, "height/8", "width/8"))],
    ),
}


class ScriptedEngine:
    def __init__(self, name: str, clock: Clock, script: Script) -> None:
        inputs, outputs = _TENSORS[name]
        self.inputs = tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in inputs)
        self.outputs = tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in outputs)
        self.name, self.clock, self.script = name, clock, script
        self.closed, self.metadata = False, script.notes.get(name, {})
        clock.advance(script.opening[name])
        script.opened.append(name)

    def run(self, feeds):
        if self.script.fail_at_call == 0:
            raise EngineError("scripted: the engine is broken")
        if self.script.fail_at_call is not None:
            self.script.fail_at_call -= 1
        self.clock.advance(self.script.next_call(self.name))
        first = next(iter(feeds.values()))
        if self.name == "text_encoder":
            return {"last_hidden_state": np.zeros((*first.shape, 4), np.float32)}
        if self.name == "unet":
            return {"out_sample": first * np.float32(0.1)}
        image = np.repeat(np.repeat(first[:, :3], 8, axis=2), 8, axis=3)
        return {"sample": np.tanh(image)}

    def close(self):
        self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """`time.perf_counter` and `time.sleep` replaced by a clock of the test's own."""
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    monkeypatch.setattr(time, "sleep", made.sleeps.append)
    return made


@pytest.fixture
def script() -> Script:
    return Script(
        opening={"text_encoder": 0.5, "unet": 2.0, "vae_decoder": 1.0, "vae_encoder": 64.0},
        calls={"text_encoder": [0.25], "unet": [1.0], "vae_decoder": [4.0], "vae_encoder": [128.0]},
    )


@pytest.fixture
def scripted_bundle(tmp_path: Path, clock: Clock, script: Script, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a manifest; its engines are scripted, its scheduler's steps take `script.outside`."""
    folder = tmp_path / "scripted.bundle"
    for name in _TENSORS:
        (folder / name).mkdir(parents=True)
        (folder / name / "model.onnx").write_bytes(b"")
        config = {"in_channels": 4, "sample_size": 2, "block_out_channels": [1, 1, 1, 1], "scaling_factor": 1.0}
        (folder / name / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(_EMOJI / name, folder / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    plugin = TargetPlugin(
        name="onnxruntime",
        summary="",
        module="onnxruntime",
        extra="onnxruntime",
        target="",
        engine="",
        devices="",
        precisions="",
    )

    def load_part(_self, _part):
        return lambda path, _spec, _options: ScriptedEngine(path.parent.name, clock, script)

    monkeypatch.setattr(TargetPlugin, "load", load_part)
    monkeypatch.setattr("diffoundry.runtime.engines.open_file.find_plugin", lambda _name: plugin)

    from diffoundry.runtime.schedulers.algorithms.ddim import DDIMScheduler

    step = DDIMScheduler.step

    @functools.wraps(step)  # the pipeline looks at its signature
    def slow_step(self, *args, **kwargs):
        clock.advance(script.next_outside())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DDIMScheduler, "step", slow_step)
    return folder
