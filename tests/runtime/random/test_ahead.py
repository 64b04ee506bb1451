"""Noise that is drawn ahead is torch's, whatever is drawn between; copies, other runs and callers see none of it."""

import copy
import pickle
import threading
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pytest

from diffoundry.runtime.random import TorchCpuGenerator, ahead
from diffoundry.runtime.random.ahead import AheadGenerator, draw_ahead
from diffoundry.runtime.random.seeds import make_generators

SHAPE = (1, 4, 64, 64)


class Watched(TorchCpuGenerator):
    """Notes the thread of every draw."""

    threads: ClassVar = []

    def randn(self, shape, dtype=np.float32):
        Watched.threads.append(threading.get_ident())
        return super().randn(shape, dtype)


def test_every_order_of_draws_is_torchs(torch):
    """Steps, another shape, uniforms, integers, few numbers and float64 between steps."""
    ours, theirs = AheadGenerator(TorchCpuGenerator(3)), torch.Generator().manual_seed(3)
    draws = [SHAPE] * 4 + [(2, 4, 64, 64)] * 3 + ["rand"] + [SHAPE] * 3 + ["randint"] + [(5,)] * 3 + [SHAPE] * 2
    for draw in draws:
        if draw == "rand":
            got, want = ours.rand((7,)), torch.rand(7, generator=theirs)
        elif draw == "randint":
            got, want = ours.randint(0, 1000, (9,)), torch.randint(0, 1000, (9,), generator=theirs)
        else:
            got, want = ours.randn(draw), torch.randn(draw, generator=theirs)
        assert np.array_equal(got, want.numpy()), draw
    assert (ours.seed, ours.kind) == (3, "torch-cpu")


def test_the_third_draw_on_is_made_by_a_thread(monkeypatch):
    monkeypatch.setattr(Watched, "threads", [])
    ours = AheadGenerator(Watched(0))
    for _ in range(4):
        ours.randn(SHAPE)
    ours._thread.shutdown()
    mine = [one == threading.get_ident() for one in Watched.threads]
    assert mine == [True, True, False, False, False]  # the last one is of a step that never came


def test_copies_go_on_from_the_last_number_taken():
    ours, plain = AheadGenerator(TorchCpuGenerator(5)), TorchCpuGenerator(5)
    for _ in range(3):
        ours.randn(SHAPE), plain.randn(SHAPE)
    twins = copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))
    following = plain.randn(SHAPE)
    for one in (*twins, ours):
        assert np.array_equal(one.randn(SHAPE), following)


def test_a_failed_draw_leaves_the_stream(monkeypatch):
    ours, plain = AheadGenerator(TorchCpuGenerator(6)), TorchCpuGenerator(6)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(ahead, "_draw", fail)
        for _ in range(2):
            assert np.array_equal(ours.randn(SHAPE), plain.randn(SHAPE))
        with pytest.raises(MemoryError):
            ours.randn(SHAPE)
    assert np.array_equal(ours.randn(SHAPE), plain.randn(SHAPE))


def test_only_generators_of_a_run_alone_draw_ahead(monkeypatch):
    monkeypatch.setattr(ahead, "native_library", lambda: None)
    own = TorchCpuGenerator(1)
    assert make_generators(None, own, 1, has_latents=False)[1] is own
    kinds = [make_generators(seed, None, 2, has_latents=False)[1] for seed in (None, 7, [7, 8])]
    assert [type(one) for one in (*kinds[:2], *kinds[2])] == [AheadGenerator] * 4
    monkeypatch.setattr(ahead, "native_library", lambda: object())
    assert draw_ahead(own) is own


@pytest.mark.skipif(find_spec("torch") is None, reason="bundles are exported with torch")
def test_interleaved_and_cancelled_runs_change_nothing(emoji_bundle, monkeypatch):
    from diffoundry.runtime import load

    monkeypatch.setattr(ahead, "_LEAST", 1)
    pipe, calls = load(emoji_bundle), {"num_inference_steps": 4, "scheduler": "euler_a", "output_type": "latent"}
    alone = [
        pipe("a red apple", generator=TorchCpuGenerator(seed), **calls).images for seed in (1, 2)
    ]  # callers' own generators, which draw when asked
    runs = [pipe.start("a red apple", seed=seed, **calls) for seed in (1, 2, 3)]
    for steps in zip(*runs[:2], strict=True):
        if steps[0].index == 1:
            next(iter(runs[2]))
            runs[2].cancel()
    for run, want in zip(runs, alone, strict=False):
        assert np.array_equal(run.finish().images, want)
