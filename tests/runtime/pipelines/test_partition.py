"""A denoiser in parts: the latents of every step are those of the whole network, bit for bit."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from partitioned_networks import lower_in_parts, open_engine, random_feeds

from diffoundry.runtime import EngineOptions, load
from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.inspect import command as inspect
from diffoundry.runtime.cli.inspect import partition_notes
from diffoundry.runtime.engines.memory_limit import MemoryLimit
from diffoundry.runtime.engines.partitioned import PartitionedEngine
from diffoundry.runtime.engines.run_memory import RunMemory

FLAT = Path(__file__).parents[3] / "models/emoji-flat/pytorch_lora_weights.safetensors"

CALLS = (
    {"num_inference_steps": 8},
    {"num_inference_steps": 4, "guidance_scale": 1.0, "height": 96},
    {"num_inference_steps": 6, "guidance_interval": (0.2, 0.8)},
    {"num_inference_steps": 6, "cache": "taylor:1"},
    {"num_inference_steps": 3, "num_images_per_prompt": 2, "negative_prompt": "dog"},
)


@pytest.fixture(scope="module")
def pipes(exported):
    """Factory: the pipelines of a model, whole and in parts."""
    opened = {}

    def find(model):
        if model not in opened:
            options = EngineOptions(threads=1)
            bundles = exported(model), exported(model, partition=True)
            opened[model] = tuple(load(bundle, options=options) for bundle in bundles)
        return opened[model]

    return find


def _steps(pipe, prompt="red apple", **arguments):
    return np.stack([step.latents for step in pipe.start(prompt, seed=0, **arguments)])


def _counted(pipe, monkeypatch):
    """Count the calls of each part of the denoiser."""
    engine, calls = pipe.session.engine(pipe.denoiser.component), {}
    assert isinstance(engine, PartitionedEngine)
    run_part = engine._run_part

    def count(part, feeds):
        calls[part.name] = calls.get(part.name, 0) + 1
        return run_part(part, feeds)

    monkeypatch.setattr(engine, "_run_part", count)
    return calls


@pytest.mark.slow_cases("emoji-dit")
@pytest.mark.parametrize("model", ["emoji", "emoji-dit"])
def test_every_step_has_the_bits_of_the_whole_network(pipes, model):
    whole, parts = pipes(model)
    for arguments in CALLS if model == "emoji" else CALLS[1:4]:
        assert np.array_equal(_steps(whole, **arguments), _steps(parts, **arguments)), arguments


@pytest.mark.slow_cases("emoji-dit")
@pytest.mark.parametrize("model", ["emoji", "emoji-dit"])
def test_conditioning_and_prelude_run_once_a_call(pipes, monkeypatch, model):
    """The prelude runs for all timesteps, and for the first alone, to compare its bits."""
    _, pipe = pipes(model)
    calls = _counted(pipe, monkeypatch)
    _steps(pipe, num_inference_steps=4)
    assert calls == {"conditioning": 1, "prelude": 2, "step": 4}
    _steps(pipe, num_inference_steps=4)  # nothing is left of the call before
    assert calls == {"conditioning": 2, "prelude": 4, "step": 8}


def test_a_batch_of_other_bits_is_not_used(pipes, monkeypatch):
    whole, pipe = pipes("emoji")
    engine = pipe.session.engine("unet")
    run_part, rows = engine._run_part, []

    def change(part, feeds):
        outputs = run_part(part, feeds)
        if part.name != "prelude":
            return outputs
        rows.append(len(feeds["timestep"]))
        return outputs if rows[-1] == 1 else {name: np.nextafter(array, 9) for name, array in outputs.items()}

    monkeypatch.setattr(engine, "_run_part", change)
    given = _steps(pipe, num_inference_steps=3)
    assert rows == [1, 8, 1, 6, 1]
    assert np.array_equal(given, _steps(whole, num_inference_steps=3))


@pytest.mark.slow
def test_low_memory_closes_what_the_loop_does_not_need(exported, pipes, monkeypatch):
    pipe = load(exported("emoji-dit", partition=True), options=EngineOptions(threads=1), low_memory=True)
    seen, run_part = [], PartitionedEngine._run_part

    def note(self, part, feeds):
        outputs = run_part(self, part, feeds)
        seen.append(sorted(self._parts.opened))
        return outputs

    monkeypatch.setattr(PartitionedEngine, "_run_part", note)
    given = _steps(pipe, num_inference_steps=3)
    assert seen == [["conditioning"], ["prelude"], ["prelude"], ["step"], ["step"], ["step"]]
    assert np.array_equal(given, _steps(pipes("emoji-dit")[0], num_inference_steps=3))


@pytest.mark.slow
def test_parts_run_in_pieces_within_a_limit_of_memory(exported, pipes, monkeypatch):
    monkeypatch.setattr(MemoryLimit, "room", 12 << 20)
    pipe = load(exported("emoji-dit", partition=True), options=EngineOptions(threads=1), memory="20GB")
    given = _steps(pipe, num_inference_steps=3)
    assert pipe.session.engine(pipe.denoiser.component).least_memory > 0
    assert np.array_equal(given, _steps(pipes("emoji-dit")[0], num_inference_steps=3))


def test_runs_that_take_turns_and_a_cancelled_one_change_nothing(pipes):
    whole, pipe = pipes("emoji")
    prompts = ("red apple", "dog", "cat")
    runs = [iter(pipe.start(prompt, seed=0, num_inference_steps=3)) for prompt in prompts]
    next(runs[2])
    taken = [[next(run).latents for run in runs[:2]] for _ in range(3)]
    for index, prompt in enumerate(prompts[:2]):
        assert np.array_equal(np.stack([step[index] for step in taken]), _steps(whole, prompt, num_inference_steps=3))


def test_threads_share_a_pipeline(pipes):
    whole, pipe = pipes("emoji")
    prompts = ["red apple", "dog"]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda prompt: _steps(pipe, prompt, num_inference_steps=3), prompts))
    for prompt, latents in zip(prompts, made, strict=True):
        assert np.array_equal(latents, _steps(whole, prompt, num_inference_steps=3))


def test_loras_reach_every_part_and_leave_it(pipes):
    whole, pipe = pipes("emoji")
    plain = _steps(whole, num_inference_steps=3)
    for one in (whole, pipe):
        one.loras.load(FLAT)
    expected, given = (_steps(one, num_inference_steps=3) for one in (whole, pipe))
    assert np.array_equal(expected, given)
    assert not np.array_equal(expected, plain)
    run = iter(pipe.start("red apple", seed=0, num_inference_steps=3))
    first = next(run).latents
    for one in (whole, pipe):
        one.loras.unload()
    assert np.array_equal(first, expected[0])
    assert not np.array_equal(next(run).latents, expected[1])  # the memory of this run is of other weights
    assert np.array_equal(_steps(pipe, num_inference_steps=3), plain)


def test_a_change_of_adapters_within_a_call_repeats_it(pipes, monkeypatch):
    _, pipe = pipes("emoji")
    engine = pipe.session.engine("unet")
    calls, run_part = [], engine._run_part

    def adapt_once(part, feeds):
        calls.append(part.name)
        if len(calls) == 2:
            thread = threading.Thread(target=engine.set_adapters, args=(None,))
            thread.start()
            thread.join()
        return run_part(part, feeds)

    monkeypatch.setattr(engine, "_run_part", adapt_once)
    _steps(pipe, num_inference_steps=1)
    assert calls == ["conditioning", "prelude", "step"] * 2


def test_inspect_shows_what_leaves_the_loop(exported):
    bundle = str(exported("emoji", partition=True))
    shown = CliRunner().invoke(inspect, [bundle, "--full"], catch_exceptions=False).output
    assert "unet, onnxruntime fp32: 10.6 % of 23.6 MB of weights leave the loop (conditioning 1.0 MB, prelude" in shown
    assert "part prelude: unet/model.prelude.timesteps.onnx, unet/model.onnx_data; makes linear_" in shown


def test_the_prelude_of_another_target_is_another_file(emoji_bundle, tmp_path):
    """OpenVINO's takes one timestep a call; both are cut from one graph, and ONNX Runtime's is opened at the end."""
    ours, theirs = (
        lower_in_parts(emoji_bundle, "unet", tmp_path, partition=True, target=target)
        for target in ("onnxruntime", "openvino")
    )
    times = [next(one.inputs[0].shape for one in spec.parts if one.name == "prelude") for spec in (ours, theirs)]
    assert times == [("timesteps",), (1,)]
    memory, feeds = RunMemory(), random_feeds(ours.inputs)
    memory.schedule, memory.convert = feeds["timestep"] * [1, 2, 3], np.asarray
    with open_engine(tmp_path, ours) as engine, memory.active():
        assert np.isfinite(engine.run(feeds)["out_sample"]).all()


def test_inspect_names_a_denoiser_of_which_nothing_leaves_the_loop(emoji_bundle):
    manifest = Bundle(emoji_bundle).manifest
    asked = replace(manifest, recipe=replace(manifest.recipe, partition=True))
    assert partition_notes(asked) == ["unet, onnxruntime fp32: nothing of it leaves the loop, so it is one graph"]
    assert partition_notes(manifest) == []
