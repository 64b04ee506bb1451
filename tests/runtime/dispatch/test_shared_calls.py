"""Engine calls that several runs share: each gets what it would get alone, in turn."""

import gc
from pathlib import Path

import numpy as np
import pytest
from dispatch_calls import CALL, Gate, held

from diffoundry.runtime import load
from diffoundry.runtime.dispatch.loras import RequestLoras
from diffoundry.runtime.dispatch.queue import RequestQueue
from diffoundry.runtime.dispatch.row_memory import RowMemory
from diffoundry.runtime.errors import InputError


def traced(call):
    """Return the call with a callback, and the list of its latents after every step."""
    seen = []

    def note(_, index, timestep, tensors):
        seen.append(tensors["latents"].copy())
        return tensors

    return {**call, "callback_on_step_end": note}, seen


def compare(pipe, dispatcher, calls, tolerance=0.0):
    """Run the calls alone, then together; compare latents after every step, and the images."""
    expected = []
    for call in calls:
        alone, latents = traced(call)
        expected.append((pipe(**alone).images, latents))
    together = [traced(call) for call in calls]
    with held(dispatcher, pipe, calls[0]):
        requests = [dispatcher.submit(pipe, call) for call, _ in together]
    for request, (_, seen), (images, latents) in zip(requests, together, expected, strict=True):
        found = request.result(120).images
        assert len(seen) == len(latents) > 0
        for step, (one, other) in enumerate(zip(seen, latents, strict=True)):
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=f"step {step}")
        np.testing.assert_allclose(found, images, rtol=0, atol=tolerance)


def mixed_calls(image, **size):
    """Return calls that differ in prompt, seed, steps, scheduler, guidance, cache, task and number of images."""
    base = {"num_inference_steps": 4, "output_type": "np", **size}
    calls = [
        {"prompt": "a red apple"},
        {"prompt": "a cat face", "negative_prompt": "blue"},
        {"prompt": "a rocket", "guidance_scale": 1.0},
        {"prompt": ["a dog", "a house"], "guidance_scale": 3.0},
        {"prompt": "a tree", "num_images_per_prompt": 2, "num_inference_steps": 3},
        {"prompt": "a pizza", "guidance_interval": (0.0, 0.6)},
        {"prompt": "a car", "cache": "taylor:1:interval=2"},
    ]
    if image is not None:
        start = np.random.default_rng(0).random((1, *image, 3), np.float32)
        alone = {name: value for name, value in base.items() if name not in ("height", "width")}
        return [{**base, **call, "seed": seed} for seed, call in enumerate(calls)] + [
            {**alone, "prompt": "a ball", "image": start, "strength": 0.5, "seed": 20}
        ]
    return [{**base, **call, "seed": seed} for seed, call in enumerate(calls)]


def joined(dispatcher, pipe):
    return dispatcher.statistics().components[f"{pipe.bundle_name}/{pipe.denoiser.component}"].joined_calls


def test_the_image_of_a_seed_is_the_same_alone_and_in_any_batch(tiny, dispatch):
    calls = mixed_calls((16, 16), height=16, width=16)
    calls += [{**calls[0], "scheduler": "euler_a", "seed": 11}, {**calls[0], "scheduler": "euler_a", "seed": 12}]
    dispatcher = dispatch(max_active=len(calls) + 1, max_rows=32)
    compare(tiny, dispatcher, calls)
    assert joined(dispatcher, tiny) > 0


@pytest.mark.slow_cases("openvino")
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_transformer_generates_the_same(portable_bundle, dispatch, target):
    """Bit for bit on ONNX Runtime; OpenVINO's kernels may add up in another order for other numbers of rows."""
    calls = [
        {"prompt": "a red apple", "seed": seed, "num_inference_steps": 3, "output_type": "np", **more}
        for seed, more in enumerate([{}, {"guidance_scale": 1.0}, {"guidance_scale": 3.0}, {"num_inference_steps": 4}])
    ]
    dispatcher = dispatch()
    with load(portable_bundle("sd3"), target=target) as pipe:
        size = dict(zip(("height", "width"), pipe.default_size, strict=True))
        compare(pipe, dispatcher, [{**call, **size} for call in calls], 0.0 if target == "onnxruntime" else 1e-4)
        assert joined(dispatcher, pipe) > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["emoji", "emoji-dit"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_trained_models_generate_the_same(exported, dispatch, model, target):
    bundle = exported(model, target="onnxruntime,openvino")
    with load(bundle, target=target) as pipe:
        calls = mixed_calls((64, 64)) if model == "emoji" else mixed_calls(None)[:5]
        dispatcher = dispatch(max_active=9, max_rows=32)
        compare(pipe, dispatcher, calls, 0.0 if target == "onnxruntime" else 1e-3)
        assert joined(dispatcher, pipe) > 0


def test_without_batching_each_run_makes_its_own_calls(tiny, dispatch):
    calls, counts = mixed_calls((16, 16), height=16, width=16), []
    tiny.session.on_call = lambda name, feeds, *_: counts.append((name, len(next(iter(feeds.values())))))
    for call in calls:
        tiny(**call)
    alone, counts[:] = sorted(counts), []
    dispatcher = dispatch(batching=False)
    for request in [dispatcher.submit(tiny, call) for call in calls]:
        request.result(60)
    assert sorted(counts) == alone
    assert dispatcher.statistics().engine_calls == len(alone)
    assert joined(dispatcher, tiny) == 0


def test_a_short_request_is_not_stuck_behind_long_ones(tiny, dispatch):
    """Its 6 engine calls come in turn with those of 3 long runs on one schedule, of 40 calls each."""
    gate, dispatcher = Gate(), dispatch(max_active=4, batching=True)
    long = {**CALL, "num_inference_steps": 40}
    runs = [dispatcher.submit(tiny, {**long, "callback_on_step_end": gate})]
    assert gate.reached.wait(60)
    runs += [dispatcher.submit(tiny, {**long, "seed": seed}) for seed in (5, 6)]
    before = dispatcher.statistics().engine_calls
    short = dispatcher.submit(tiny, {**CALL, "num_inference_steps": 4})
    ends = []
    short.add_listener(lambda event: event is None and ends.append(dispatcher.statistics().engine_calls))
    gate.opened.set()
    short.result(60)
    assert not any(run.finished for run in runs)
    for run in runs:
        run.cancel()
    assert ends[0] - before <= 6 * 4


def test_runs_of_one_schedule_come_together(tiny, dispatch):
    """The second begins a step later; the first waits for it, and they share the rest of their calls."""
    gate, dispatcher = Gate(), dispatch()
    long = {**CALL, "num_inference_steps": 12}
    first = dispatcher.submit(tiny, {**long, "callback_on_step_end": gate})
    assert gate.reached.wait(60)
    second = dispatcher.submit(tiny, {**long, "seed": 4})
    gate.opened.set()
    first.result(60)
    second.result(60)
    statistics = dispatcher.statistics().components[f"{tiny.bundle_name}/{tiny.denoiser.component}"]
    assert statistics.requests == 24
    assert statistics.joined_calls >= 8
    assert statistics.calls == 24 - statistics.joined_calls


def test_calls_are_joined_up_to_a_number_of_rows(tiny, dispatch):
    rows = []
    tiny.session.on_call = lambda name, feeds, *_: rows.append(len(next(iter(feeds.values()))))
    dispatcher = dispatch(max_rows=4)
    with held(dispatcher, tiny, CALL):
        requests = [dispatcher.submit(tiny, {**CALL, "seed": seed}) for seed in range(5)]
    for request in requests:
        request.result(60)
    assert max(rows) == 4
    assert dispatcher.statistics().engine_rows == sum(rows)


def test_different_sizes_and_timesteps_are_not_joined(tiny, dispatch):
    dispatcher = dispatch()
    calls = [CALL, {**CALL, "height": 32}, {**CALL, "num_inference_steps": 5, "scheduler": "euler_karras"}]
    compare(tiny, dispatcher, calls)
    assert joined(dispatcher, tiny) == 0


def test_a_folder_without_a_manifest_joins_nothing(tiny_folder, tmp_path, dispatch):
    """Nobody says that its rows are computed independently."""
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "optimum")
    (folder / "diffoundry.json").unlink()
    dispatcher = dispatch()
    with load(folder) as pipe:
        compare(pipe, dispatcher, [CALL, {**CALL, "seed": 5}])
        assert joined(dispatcher, pipe) == 0


def test_pipelines_share_a_dispatcher_and_low_memory_runs_one_at_a_time(tiny, tiny_folder, dispatch):
    dispatcher, active = dispatch(), []
    with load(tiny_folder, low_memory=True) as other:

        def note(pipeline, index, timestep, tensors):
            active.append(sum(one.pipeline is other for one in dispatcher.active))
            return tensors

        requests = [dispatcher.submit(pipe, CALL) for pipe in (tiny, tiny)]
        requests += [dispatcher.submit(other, {**CALL, "callback_on_step_end": note}) for _ in range(2)]
        expected = tiny(**CALL).images
        for request in requests:
            np.testing.assert_array_equal(request.result(60).images, expected)
    assert active == [1] * 8


def test_the_shortest_request_starts_first_but_the_oldest_waits_for_four_at_most(tiny, dispatch):
    gate, dispatcher = Gate(), dispatch(max_active=1)
    dispatcher.submit(tiny, {**CALL, "callback_on_step_end": gate})
    long = dispatcher.submit(tiny, {**CALL, "num_inference_steps": 30})
    short = [dispatcher.submit(tiny, {**CALL, "num_inference_steps": 2, "seed": seed}) for seed in range(6)]
    assert dispatcher.queued == (*short[:4], long, *short[4:])
    for request in (long, *short):
        request.cancel()
    gate.opened.set()
    assert RequestQueue().next() is None


def test_calls_are_joined_only_where_their_memory_fits(tiny, dispatch):
    dispatcher = dispatch(memory=1)  # this process holds more already
    compare(tiny, dispatcher, [CALL, {**CALL, "seed": 5}])
    assert joined(dispatcher, tiny) == 0


class _Session:
    """An owner of engines."""


def test_memory_is_measured_by_row(monkeypatch):
    from diffoundry.runtime.dispatch import row_memory

    monkeypatch.setattr(row_memory, "own_memory", lambda: (1000, 1000))
    monkeypatch.setattr(row_memory, "available_memory", lambda: 3000)
    memory, first = RowMemory(None), _Session()
    assert memory.free() == 2000
    assert memory.needed(first, 50) == 0
    memory.record(first, "unet", 20, 400)  # 20 bytes a row and pixel
    memory.record(first, "vae", 10, 50)
    assert memory.needed(first, 50) == 1000
    assert memory.fits(first, "unet", 120)
    assert not memory.fits(first, "unet", 121)  # 101 more
    assert memory.fits(first, "unet", 20)
    assert memory.fits(_Session(), "unet", 10**9)  # nothing is known of it
    second = _Session()
    memory.record(second, "unet", 1, 9)
    del second
    gc.collect()
    assert (len(memory._largest), len(memory._bytes)) == (1, 1)  # a closed bundle is forgotten
    assert RowMemory(1500).free() == 500
    monkeypatch.setattr(row_memory, "available_memory", lambda: None)
    assert RowMemory(None).free() == float("inf")


@pytest.mark.slow
def test_each_request_has_its_own_loras(exported, dispatch):
    from importlib.resources import files

    lora = str(files("diffoundry_models") / "emoji-flat/pytorch_lora_weights.safetensors")
    call = {"prompt": "a red apple", "seed": 1, "num_inference_steps": 2, "output_type": "np"}
    with load(exported("emoji")) as pipe:
        plain = pipe(**call).images
        pipe.loras.load(lora, scale=0.8, name="flat")
        styled = pipe(**call).images
        pipe.loras.unload()
        assert not np.array_equal(plain, styled)
        dispatcher = dispatch()
        requests = [dispatcher.submit(pipe, call, loras=own) for own in (None, {lora: 0.8}, {lora: 0.8}, {}, {lora: 1})]
        lost = dispatcher.submit(pipe, call, loras={"missing.safetensors": 1.0})
        for request, expected in zip(requests, (plain, styled, styled, plain), strict=False):
            np.testing.assert_array_equal(request.result(120).images, expected)
        assert not np.array_equal(requests[-1].result(120).images, styled)
        with pytest.raises(InputError, match=r"missing.safetensors: cannot be read"):
            lost.result(120)
        np.testing.assert_array_equal(dispatcher.submit(pipe, call).result(120).images, plain)


class _Loras:
    """Notes what is loaded."""

    def __init__(self):
        self.done = []

    def load(self, path, *, scale, name):
        self.done.append(("load", Path(path).read_text(), scale))
        assert name == path

    def set_scale(self, scale, _path):
        self.done.append(("scale", scale))

    def unload(self, _path):
        self.done.append("unload")


class _Pipe:
    def __init__(self):
        self.loras = _Loras()


def test_a_lora_that_was_replaced_is_loaded_again(tmp_path):
    """By the next request; one that came before keeps what it has, and neither runs beside the other."""
    loras, pipe, path = RequestLoras(), _Pipe(), tmp_path / "style.safetensors"
    path.write_text("first")
    first = loras.check(pipe, {path: 0.5})
    loras.apply(pipe, first)
    loras.apply(pipe, loras.check(pipe, {path: 1}))
    path.write_text("the second")
    second = loras.check(pipe, {path: 1})
    assert second != loras.check(pipe, {path: 0.5}) != first
    loras.apply(pipe, second)
    loras.apply(pipe, loras.check(pipe, {path: 1}))
    assert pipe.loras.done == [("load", "first", 0.5), ("scale", 1.0), "unload", ("load", "the second", 1.0)]


def test_loras_are_checked(tiny, dispatch):
    dispatcher = dispatch()
    with pytest.raises(InputError, match=r"loras: got the scale 'high' for 'a.safetensors', expected a number such as"):
        dispatcher.submit(tiny, CALL, loras={"a.safetensors": "high"})
    request = dispatcher.submit(tiny, CALL, loras={"a.safetensors": 1})
    with pytest.raises(InputError, match=r"a.safetensors: cannot be read"):
        request.result(60)
    with pytest.raises(InputError, match=r"loras: got 1 for a pipeline that takes none at run time; leave them out"):
        RequestLoras().check(object(), {"a.safetensors": 1})
