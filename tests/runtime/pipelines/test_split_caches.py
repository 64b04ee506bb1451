"""Split denoisers and their caches: against DeepCache on diffusers' UNet, and diffusers' first block cache."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from approximated_loops import PROMPT, SETTINGS, STEPS, expected_loop, near, trajectory
from click.testing import CliRunner
from partitioned_networks import lower_in_parts, open_engine, random_feeds

from diffoundry.runtime import EngineOptions, load
from diffoundry.runtime.checks.approximations import CacheChoice, parse_cache
from diffoundry.runtime.cli.inspect import command as inspect
from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.runtime.engines.body_cache import watch_bodies
from diffoundry.runtime.errors import InputError

FLAT = Path(__file__).parents[3] / "models/emoji-flat/pytorch_lora_weights.safetensors"

CACHES = ("deep:3", "deep:2:final=0", "deep:3:order=1")


@pytest.fixture(scope="module")
def pipes(exported):
    """Factory: the pipelines of a model, whole and split."""
    opened = {}

    def find(model):
        if model not in opened:
            bundles = exported(model), exported(model, split=True)
            opened[model] = tuple(load(bundle, options=EngineOptions(threads=1)) for bundle in bundles)
        return opened[model]

    return find


@pytest.fixture
def cut(pipes):
    return pipes("emoji")[1]


def same(ours, theirs):
    return all(map(np.array_equal, ours, theirs))


def bodies(pipe, **arguments):
    """Latents after every step, and for each call of the denoiser whether it ran its inner part."""
    with watch_bodies() as calls:
        return trajectory(pipe, **arguments)[0], calls


@pytest.mark.parametrize("model", ["emoji", "emoji-dit"])
def test_without_a_cache_every_step_has_the_bits_of_the_whole_network(pipes, model):
    whole, cut = pipes(model)
    more = ({"guidance_scale": 1.0, "height": 96}, {"guidance_interval": (0.2, 0.8)}) if model == "emoji" else ()
    for arguments in ({}, *more):
        few = {"num_inference_steps": 6, **arguments}
        assert same(trajectory(whole, **few)[0], trajectory(cut, **few)[0]), arguments
    kept, calls = bodies(cut, num_inference_steps=3, cache="deep:2:final=3")  # nothing is left out
    assert same(kept, trajectory(whole, num_inference_steps=3)[0])
    assert calls == [True] * 3


class DeepCache:
    """DeepCache of the outermost skip on diffusers' UNet: its last layer gets an earlier input beside the skip."""

    def __init__(self, unet, called):
        self.width = unet.config.block_out_channels[0]
        self.hook = unet.up_blocks[-1].resnets[-1].register_forward_pre_hook(self.change)
        self.called, self.step, self.branch, self.kept = called, 0, "", {}

    def change(self, _module, arguments):
        joined, *others = arguments
        inner, skip = joined[:, : -self.width], joined[:, -self.width :]
        if self.step in self.called:
            self.kept.setdefault(self.branch, []).append((self.step, inner))
        return torch.cat([self.forecast(inner), skip], 1), *others

    def forecast(self, inner):
        return inner if self.step in self.called else self.kept[self.branch][-1][1]


class LinearDeepCache(DeepCache):
    """The same with the line through the last two inputs."""

    def forecast(self, inner):
        if self.step in self.called:
            return inner
        (first, old), (second, new) = self.kept[self.branch][-2:]
        return new + (new - old) * ((self.step - second) / (second - first))


@pytest.mark.parametrize(
    ("cache", "kind", "called"),
    [
        ("deep:3", DeepCache, {0, 3, 6, 9, 10, 11}),
        ("deep:2:final=0", DeepCache, {0, 2, 4, 6, 8, 10}),
        ("deep:4:order=1:final=1", LinearDeepCache, {0, 1, 4, 8, 11}),
    ],
)
def test_deep_is_deepcache(cut, emoji_diffusers, cache, kind, called):
    theirs = kind(emoji_diffusers.unet, called)

    def guide(index, text, empty):
        theirs.step, outputs = index, {}
        for theirs.branch, predict in (("text", text), ("empty", empty)):
            outputs[theirs.branch] = predict()
        return outputs["empty"] + 4.0 * (outputs["text"] - outputs["empty"])

    try:
        expected = expected_loop(emoji_diffusers, guide)
    finally:
        theirs.hook.remove()
    ours, calls = bodies(cut, cache=cache)
    near(ours, expected)
    assert calls == [index in called for index in range(STEPS)]


def test_first_block_is_diffusers_first_block_cache(pipes, emoji_dit_diffusers):
    from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache
    from diffusers.models.cache_utils import CacheMixin

    _, cut = pipes("emoji-dit")
    theirs, called = [], []
    transformer = emoji_dit_diffusers.transformer
    last = transformer.transformer_blocks[-1]
    whole = last.forward

    def with_text(hidden_states, encoder_hidden_states, **more):
        """The hook subtracts tokens of the text from what the last block returns for them, which is None here."""
        return encoder_hidden_states, whole(hidden_states, encoder_hidden_states, **more)[1]

    last.forward = with_text
    apply_first_block_cache(transformer, FirstBlockCacheConfig(threshold=0.2))
    transformer.transformer_blocks[1].attn.register_forward_hook(lambda *_: called.append(len(theirs)))

    def keep(_pipe, _index, _time, tensors):
        theirs.append(tensors["latents"].numpy().copy())
        return tensors

    with CacheMixin.cache_context(transformer, "both branches, in one call"):
        emoji_dit_diffusers(
            PROMPT, num_inference_steps=STEPS, guidance_scale=4.0, generator=torch.Generator().manual_seed(3),
            height=64, width=64, output_type="latent", callback_on_step_end=keep,
        )  # fmt: skip
    ours, calls = bodies(cut, cache="first-block:0.2:final=0", height=64, width=64)
    near(ours, theirs)
    assert calls == [index in called for index in range(STEPS)]
    assert 1 < sum(calls) < STEPS
    _, calls = bodies(cut, cache="first-block:9:final=2")
    assert calls == [True, *[False] * 9, True, True]


def test_both_branches_decide_together_however_many_calls_they_take(pipes, monkeypatch):
    """Rows in calls of their own, as engines of one row take them: the first of a step decides for the others."""
    _, cut = pipes("emoji-dit")
    joined, decisions = bodies(cut, cache="deep:3")
    monkeypatch.setattr(cut.session, "_rows_at_once", lambda _inputs: 1)
    apart, calls = bodies(cut, cache="deep:3")
    near(apart, joined)
    assert calls == [decision for decision in decisions for _ in range(2)]
    _, calls = bodies(cut, cache="first-block:0.2", num_images_per_prompt=2)
    assert all(len(set(calls[start : start + 4])) == 1 for start in range(0, len(calls), 4))
    assert not all(calls)


def test_images_of_one_prompt_in_calls_of_their_own_keep_their_own(cut, monkeypatch):
    together, _ = bodies(cut, cache="deep:3", num_images_per_prompt=2)
    monkeypatch.setattr(cut.session, "_rows_at_once", lambda _inputs: 1)
    near(bodies(cut, cache="deep:3", num_images_per_prompt=2)[0], together)


def test_parts_of_a_partition_are_split_as_well(emoji_bundle, tmp_path):
    results = []
    for cut in (False, True):
        spec = lower_in_parts(emoji_bundle, "unet", tmp_path / str(cut), partition=cut, split=cut)
        with open_engine(tmp_path / str(cut), spec) as engine:
            results.append(engine.run(random_feeds(spec.inputs))["out_sample"])
    assert [part.name for part in spec.parts] == ["conditioning", "prelude", "inner", "outer"]
    assert np.array_equal(*results)


def test_a_change_of_rows_computes_all(cut):
    _, calls = bodies(cut, cache="deep:4:final=0", guidance_interval=(0.0, 0.5))
    assert calls == [index in (0, 4, 6, 8) for index in range(STEPS)]


def test_nothing_is_left_of_other_runs(cut):
    """Runs in turns, in threads and in a dispatcher, and a cancelled one, change nothing in another."""
    alone = [trajectory(cut, cache=cache)[0] for cache in CACHES]
    cancelled = iter(cut.start(PROMPT, **{**SETTINGS, "seed": 9}, cache=CACHES[0]))
    runs = [iter(cut.start(PROMPT, **SETTINGS, cache=cache)) for cache in CACHES]
    made = [[] for _ in runs]
    for index in range(STEPS):
        if index < 5:
            next(cancelled)
        for run, latents in zip(runs, made, strict=True):
            latents.append(next(run).latents)
    assert all(map(same, made, alone))
    with ThreadPoolExecutor(3) as pool:
        threads = pool.map(lambda cache: [step.latents for step in cut.start(PROMPT, **SETTINGS, cache=cache)], CACHES)
        assert all(map(same, threads, alone))
    with Dispatcher() as dispatcher:
        requests = [dispatcher.submit(cut, {"prompt": PROMPT, **SETTINGS, "cache": cache}) for cache in CACHES]
        ends = [request.result().images for request in requests]
    for end, latents in zip(ends, alone, strict=True):
        assert np.array_equal(end, latents[-1])


def test_an_asynchronous_call(cut):
    made = asyncio.run(cut.agenerate(PROMPT, **SETTINGS, cache="deep:3")).images
    assert np.array_equal(made, trajectory(cut, cache="deep:3")[0][-1])


def test_loras_reach_every_part_and_end_what_is_kept(pipes):
    whole, cut = pipes("emoji")
    plain, _ = trajectory(cut, cache="deep:3")
    for pipe in (whole, cut):
        pipe.loras.load(FLAT)
    try:
        assert same(trajectory(whole)[0], trajectory(cut)[0])
        flat, calls = bodies(cut, cache="deep:3")
        assert calls == [index in (0, 3, 6, 9, 10, 11) for index in range(STEPS)]
        assert not same(flat, plain)
        run = iter(cut.start(PROMPT, **SETTINGS, cache="deep:3"))
        with watch_bodies() as calls:
            next(run)
            next(run)
            cut.loras.unload()
            next(run)
        assert calls == [True, False, True]  # nothing of the other weights is used
    finally:
        for pipe in (whole, cut):
            pipe.loras.unload()
    assert same(trajectory(cut, cache="deep:3")[0], plain)


@pytest.mark.parametrize(
    ("model", "is_split", "cache", "message"),
    [
        ("emoji", False, "deep:3", "cache: got 'deep:3' for a bundle whose unet cannot leave out a part, .* --split"),
        ("emoji", True, "first-block:0.1", "cache: got 'first-block:0.1' for the UNet .* expected a transformer"),
        ("emoji", True, "deep:1", "cache: got '1' for the interval in 'deep:1', expected a whole number from 2"),
        ("emoji", True, "deep:3:guidance-order=1", "cache: got guidance-order in .*, which deep does not take"),
        ("emoji", True, "first-block:0.1:order=1", "cache: got order in .*, which first-block does not take"),
    ],
)
def test_refusals(pipes, model, is_split, cache, message):
    with pytest.raises(InputError, match=message):
        pipes(model)[is_split].start(PROMPT, cache=cache)


def test_a_choice_is_read():
    assert parse_cache("deep:3") == CacheChoice("deep", 0, 3)
    assert parse_cache("deep:3:order=1:final=0") == CacheChoice("deep", 1, 3, final=0)
    assert parse_cache("first-block:0.08") == CacheChoice("first-block", 0, threshold=0.08)


def test_inspect_shows_the_parts(exported):
    shown = CliRunner().invoke(inspect, [str(exported("emoji", split=True))], catch_exceptions=False).output
    assert "unet, onnxruntime fp32: split into inner 22.6 MB, outer 1.3 MB; deep caches leave out inner" in shown
    shown = CliRunner().invoke(inspect, [str(exported("emoji-dit", split=True))], catch_exceptions=False).output
    assert "tail 309.6 kB; deep and first-block caches leave out body in some steps" in shown
