"""A short call of the golden pipeline, and a callback that holds its run."""

import contextlib
import threading

CALL = {"prompt": "a red apple", "height": 16, "width": 16, "seed": 3, "num_inference_steps": 4, "output_type": "np"}


class Gate:
    """A callback that stops a run after a step until it is opened."""

    def __init__(self, step=0):
        self.step, self.reached, self.opened = step, threading.Event(), threading.Event()

    def __call__(self, _, index, timestep, tensors):
        if index == self.step:
            self.reached.set()
            assert self.opened.wait(60)
        return tensors


@contextlib.contextmanager
def held(dispatcher, pipe, call):
    """Let no engine call be made within this block, because the dispatcher waits for a run that computes."""
    gate = Gate()
    holder = dispatcher.submit(pipe, {**call, "callback_on_step_end": gate})
    assert gate.reached.wait(60)
    try:
        yield
    finally:
        holder.cancel()
        gate.opened.set()
