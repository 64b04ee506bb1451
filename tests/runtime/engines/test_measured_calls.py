"""A network that ran in pieces is opened whole where the call showed that it fits."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffoundry.runtime import load
from diffoundry.runtime.engines.measured_calls import MeasuredCalls
from diffoundry.runtime.engines.memory_limit import MemoryLimit
from diffoundry.runtime.engines.resident_memory import resident_bytes
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError

SMALL = 12 << 20
LARGE = 1 << 40
SHAPES = {"sample": (2, 4, 64, 64), "timestep": ()}

pytestmark = pytest.mark.skipif(resident_bytes() is None, reason="this system does not report a process's memory")


class Limit(SimpleNamespace):
    """A process that holds 200 bytes and 250 at the peak of a call, and has `room` left afterwards."""

    peak = 250

    def begin(self):
        return 200


@pytest.mark.parametrize(("room", "whole"), [(149, False), (150, True)])
def test_weights_and_values_must_fit(room, whole):
    calls = MeasuredCalls(Limit(room=room))
    with calls.measuring("unet", SimpleNamespace(whole_memory=100), SHAPES):
        assert not calls.is_whole("unet")
    assert calls.is_whole("unet") == whole
    assert not calls.is_whole("vae_decoder")


@pytest.mark.parametrize("engine", [SimpleNamespace(whole_memory=0), SimpleNamespace()])
def test_a_network_that_is_open_whole_is_not_measured(engine):
    calls = MeasuredCalls(Limit(room=LARGE))
    with calls.measuring("unet", engine, SHAPES):
        pass
    assert not calls.is_whole("unet")


def test_larger_arrays_are_measured_again():
    calls = MeasuredCalls(Limit(room=LARGE))
    assert not calls.is_outgrown("unet", SHAPES)
    with calls.measuring("unet", SimpleNamespace(whole_memory=1), SHAPES):
        pass
    assert not calls.is_outgrown("unet", {**SHAPES, "sample": (1, 4, 64, 32)})
    assert calls.is_whole("unet")
    for shapes in ({"sample": (2, 4, 64, 65)}, {"sample": (2, 4, 64)}, {**SHAPES, "mask": (1,)}):
        with calls.measuring("unet", SimpleNamespace(whole_memory=1), SHAPES):
            pass
        assert calls.is_outgrown("unet", shapes)
        assert not calls.is_whole("unet")


def test_a_call_that_fails_shows_nothing():
    calls = MeasuredCalls(Limit(room=LARGE))
    with pytest.raises(OSError, match="x"), calls.measuring("unet", SimpleNamespace(whole_memory=1), SHAPES):
        raise OSError("x")
    assert not calls.is_whole("unet")


@pytest.mark.parametrize("target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_the_first_step_runs_in_pieces_and_the_next_ones_whole(monkeypatch, exported, emoji_bundle, target):
    bundle = emoji_bundle if target == "onnxruntime" else exported("emoji", target="openvino")
    arguments = {"num_inference_steps": 3, "seed": 3, "output_type": "np"}
    expected = load(bundle)("red apple", **arguments).images
    room, opened, open_file = [], [], EngineSession._open_file

    def record(self, name, path, spec, options, adapters):
        engine = open_file(self, name, path, spec, options, adapters)
        opened.append((path.parent.name, options.whole, engine.least_memory > 0))
        return engine

    monkeypatch.setattr(EngineSession, "_open_file", record)
    monkeypatch.setattr(MemoryLimit, "room", property(lambda _: room.pop() if room else SMALL))
    pipe = load(bundle, memory="20GB")

    def leave_room(name, *_):
        """Let what ran in pieces fit whole."""
        room.extend([LARGE] if pipe.session.engine(name).least_memory else [])

    pipe.session.on_call = leave_room
    images = pipe("red apple", **arguments).images
    tolerance = 0 if target == "onnxruntime" else 1e-4
    np.testing.assert_allclose(images, expected, rtol=0, atol=tolerance)
    assert opened == [
        ("text_encoder", False, True),
        ("unet", False, True),
        ("unet", True, False),
        ("vae_decoder", False, True),
    ]


def test_a_peak_before_the_measured_call_is_not_forgotten(tmp_path):
    limit = MemoryLimit(resident_bytes() + (60 << 20), tmp_path)
    np.ones(200 << 20, np.uint8)
    assert limit.begin() > 0
    assert limit.peak < resident_bytes() + (60 << 20)
    with pytest.raises(InputError, match=r"took \d.* with component 'unet'"):
        limit.check("unet")
    limit.check("unet")
