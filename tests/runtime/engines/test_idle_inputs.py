"""The switch between the graphs with and without idle inputs: one is open at a time, and failures leave none."""

import numpy as np
import pytest

from diffoundry.runtime.bundle.specs import EngineSpec, IdleSpec, TensorSpec
from diffoundry.runtime.engines.idle_inputs import GraphSwitch

X, R = np.ones((2, 3, 4, 5), "f"), np.ones((2, 7, 2, 3), "f")
IDLE, FED = {"x": X}, {"x": X, "r": R, "e": np.ones((2, 1, 1), "f")}


def make(idle=("r", "e")):
    shapes = {
        "x": ("batch", 3, "height/8", "width/8"),
        "r": ("batch", 7, "(height+15)//16", "(width+15)//16"),
        "e": ("batch", "prompts", "tokens"),
    }
    inputs = tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items())
    return GraphSwitch(
        EngineSpec(
            target="t",
            precision="fp32",
            files=("a",),
            inputs=inputs,
            outputs=inputs[:1],
            idle=IdleSpec(inputs=idle) if idle else None,
        )
    )


class Opener:
    """Notes which graph is opened; fails where it is told to."""

    def __init__(self, switch):
        self.switch, self.opened, self.fails = switch, [], False

    def __call__(self):
        if self.fails:
            raise OSError("no file")
        self.opened.append(self.switch.whole)

    def call(self, feeds):
        with self.switch.turned(feeds, self):
            return self.switch.whole


def test_the_whole_graph_stays_until_its_inputs_were_left_out_100_times_in_a_row():
    switch = make()
    opener = Opener(switch)
    assert not opener.call(IDLE)
    assert opener.call(FED)
    assert all(opener.call(IDLE) for _ in range(99))
    assert opener.call({"x": X, "r": R})  # counts again
    assert all(opener.call(IDLE) for _ in range(99))
    assert not opener.call(IDLE)
    assert not opener.call(IDLE)
    assert opener.opened == [True, False]


def test_a_graph_that_could_not_be_opened_is_tried_again():
    switch = make()
    opener = Opener(switch)
    opener.fails = True
    for _ in range(2):
        with pytest.raises(OSError, match="no file"):
            opener.call(FED)
    opener.fails = False
    assert opener.call(FED)
    assert opener.opened == [True]


def test_zeros_replace_what_was_left_out():
    filled = make().filled({"x": X, "e": FED["e"]})
    assert filled["x"] is X
    np.testing.assert_array_equal(filled["r"], np.zeros((2, 7, 2, 3), "f"))
    assert make().filled({"x": X})["e"].shape == (2, 1, 1)
    assert make().filled(FED) is FED


def test_an_engine_without_idle_inputs_never_turns():
    switch = make(idle=())
    opener = Opener(switch)
    assert opener.call(FED)
    assert opener.call(IDLE)
    assert not opener.opened
    assert GraphSwitch(None).whole
