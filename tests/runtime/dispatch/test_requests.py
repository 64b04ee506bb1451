"""The life of a request: events, results, cancelling, time limits, errors."""

import logging
import threading

import numpy as np
import pytest
from dispatch_calls import CALL, Gate, held

from diffoundry.runtime.errors import (
    CancelledError,
    DispatcherClosedError,
    EngineError,
    InputError,
    QueueFullError,
    TimeLimitError,
    UnknownArgumentError,
)


def test_a_request_gives_the_image_of_the_call(tiny, dispatch):
    request = dispatch().submit(tiny, CALL, previews=[0, 2])
    np.testing.assert_array_equal(request.result(60).images, tiny(**CALL).images)
    events = list(request.events())
    run = tiny.start(**CALL)
    for event, step in zip(events, run, strict=True):
        assert (event.index, event.total, event.timestep) == (step.index, 4, step.timestep)
        if step.index in (0, 2):
            assert event.images[0].tobytes() == run.preview()[0].tobytes()
        else:
            assert event.images is None
    assert (request.state, request.total, request.done_steps, request.error) == ("done", 4, 4, None)
    assert (request.run.total, request.run.seed) == (4, run.seed)  # files of a server state them
    assert request.arguments["guidance_scale"] == 7.5
    assert not request.cancel()


@pytest.mark.parametrize(("previews", "steps"), [(0, []), (1, [1]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_a_number_of_previews_is_spread_over_the_steps(tiny, dispatch, previews, steps):
    request = dispatch().submit(tiny, CALL, previews=previews)
    request.result(60)
    assert [event.index for event in request.events() if event.images is not None] == steps


def test_a_run_is_cancelled_after_its_engine_call_under_way(tiny, dispatch):
    gate = Gate(1)
    dispatcher = dispatch()
    request = dispatcher.submit(tiny, {**CALL, "callback_on_step_end": gate})
    assert gate.reached.wait(60)
    before = dispatcher.statistics().engine_calls
    assert request.cancel()
    gate.opened.set()
    with pytest.raises(CancelledError, match=rf"request {request.id}: it was cancelled, so it has no result; submit"):
        request.result(60)
    statistics = dispatcher.statistics()
    assert statistics.engine_calls == before  # not one more
    assert (request.state, request.run, statistics.cancelled, statistics.done) == ("cancelled", None, 1, 0)


def test_a_waiting_request_is_cancelled_at_once(tiny, dispatch):
    gate = Gate()
    dispatcher = dispatch(max_active=1)
    first = dispatcher.submit(tiny, {**CALL, "callback_on_step_end": gate})
    second, third = (dispatcher.submit(tiny, {**CALL, "seed": seed}) for seed in (4, 5))
    assert dispatcher.queued == (second, third)
    assert (dispatcher.position(first), dispatcher.position(second), dispatcher.position(third)) == (None, 0, 1)
    assert second.cancel()
    assert second.state == "cancelled"
    assert dispatcher.queued == (third,)
    gate.opened.set()
    assert first.result(60).images.shape == third.result(60).images.shape
    assert dispatcher.statistics().cancelled == 1


def test_a_time_limit_counts_the_time_in_the_queue(tiny, dispatch):
    gate = Gate()
    dispatcher = dispatch(max_active=1)
    first = dispatcher.submit(tiny, {**CALL, "callback_on_step_end": gate}, time_limit=600)
    second = dispatcher.submit(tiny, CALL, time_limit=0.05)
    with pytest.raises(TimeLimitError, match=r"it has not ended in 0.05 seconds; generate fewer steps or a smaller"):
        second.result(60)
    assert second.state == "failed"
    assert first.stop(TimeLimitError("over"))
    gate.opened.set()
    with pytest.raises(TimeLimitError, match="over"):
        first.result(60)
    assert dispatcher.statistics().timed_out == 2


def test_an_error_of_one_run_leaves_the_others_alone(tiny, dispatch):
    dispatcher = dispatch()

    def fail(_, index, timestep, tensors):
        if index == 1:
            raise ZeroDivisionError("my own mistake")
        return tensors

    expected = tiny(**CALL).images
    requests = [dispatcher.submit(tiny, call) for call in (CALL, {**CALL, "callback_on_step_end": fail}, CALL)]
    with pytest.raises(ZeroDivisionError, match="my own mistake"):
        requests[1].result(60)
    for request in (requests[0], requests[2]):
        np.testing.assert_array_equal(request.result(60).images, expected)
    assert dispatcher.statistics().failed == 1


def test_a_joined_call_that_fails_is_made_for_each_run_alone(tiny, dispatch, monkeypatch):
    expected = tiny(**CALL).images
    plain, refused = tiny.session.run, []

    def run(name, feeds):
        rows = len(next(iter(feeds.values())))
        if rows > 2:
            refused.append(rows)
            raise EngineError("too many rows")
        return plain(name, feeds)

    monkeypatch.setattr(tiny.session, "run", run)
    dispatcher = dispatch()
    with held(dispatcher, tiny, CALL):
        requests = [dispatcher.submit(tiny, CALL) for _ in range(2)]
    for request in requests:
        np.testing.assert_array_equal(request.result(60).images, expected)
    assert 4 in refused


def test_arguments_are_checked_before_anything_waits(tiny, dispatch):
    dispatcher = dispatch()
    with pytest.raises(UnknownArgumentError, match="num_inference_step: no such argument"):
        dispatcher.submit(tiny, {**CALL, "num_inference_step": 2})
    with pytest.raises(InputError, match="height: got 65, expected a multiple of"):
        dispatcher.submit(tiny, {**CALL, "height": 65})
    for wrong in (-1, "all", [1, -2], True, 1.5):
        with pytest.raises(InputError, match=r"previews: got .*, expected a number of previews, or indices of steps"):
            dispatcher.submit(tiny, CALL, previews=wrong)
    for wrong in (0, -1, float("inf")):
        with pytest.raises(InputError, match=r"time_limit: got .*, expected seconds above 0, or None"):
            dispatcher.submit(tiny, CALL, time_limit=wrong)
    assert dispatcher.statistics().submitted == 0


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("max_active", 0, "expected a whole number of at least 1"),
        ("max_queued", -1, "expected a whole number of at least 0"),
        ("max_rows", 1.5, "expected a whole number of at least 1"),
        ("memory", 0, "expected a number of bytes of at least 1, or None"),
        ("gather_seconds", -1, "expected seconds of at least 0"),
    ],
)
def test_options_are_checked(dispatch, option, value, expected):
    with pytest.raises(InputError, match=f"{option}: got {value}, {expected}"):
        dispatch(**{option: value})


def test_a_full_queue_says_how_long_to_wait(tiny, dispatch):
    gate = Gate()
    dispatcher = dispatch(max_active=1, max_queued=1)
    first = dispatcher.submit(tiny, {**CALL, "callback_on_step_end": gate})
    second = dispatcher.submit(tiny, CALL)
    with pytest.raises(QueueFullError, match=r"the queue is full: 1 waiting, .* try again in about \d+ seconds") as e:
        dispatcher.submit(tiny, CALL)
    assert e.value.queued == 1
    assert e.value.expected_wait >= 1
    statistics = dispatcher.statistics()
    assert (statistics.refused, statistics.queued, statistics.active, statistics.submitted) == (1, 1, 1, 2)
    assert statistics.expected_wait > 0
    gate.opened.set()
    assert dispatcher.drain(60) == ()
    assert first.finished
    assert second.finished
    assert dispatcher.statistics().expected_wait == 0


def test_draining_finishes_what_there_is_and_closing_cancels_it(tiny, dispatch):
    gate = Gate()
    dispatcher = dispatch(max_active=1)
    first = dispatcher.submit(tiny, {**CALL, "callback_on_step_end": gate})
    second = dispatcher.submit(tiny, CALL)
    assert gate.reached.wait(60)
    assert set(dispatcher.drain(0)) == {first, second}
    assert dispatcher.draining
    with pytest.raises(DispatcherClosedError, match="takes no more requests: it is being closed; make another one"):
        dispatcher.submit(tiny, CALL)
    threading.Timer(0.05, gate.opened.set).start()
    dispatcher.close()
    for request in (first, second):
        with pytest.raises(CancelledError, match="the dispatcher was closed, so it has no result"):
            request.result(60)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("diffoundry-request")]
    tiny(**CALL)  # the pipeline stays open


def test_a_listener_gets_everything_and_may_fail(tiny, dispatch, caplog):
    gate, seen, late = Gate(1), [], []

    def listen(event):
        seen.append(event and event.index)
        raise RuntimeError("my own mistake")

    with caplog.at_level(logging.ERROR):
        request = dispatch().submit(tiny, {**CALL, "callback_on_step_end": gate})
        assert gate.reached.wait(60)
        request.add_listener(listen)  # after the first step
        gate.opened.set()
        request.result(60)
        request.wait()
    request.add_listener(lambda event: late.append(event and event.index))
    assert late == [0, 1, 2, 3, None]
    while len(seen) < 5:  # the last call may still be under way
        pass
    assert seen == late
    assert "a listener of a request failed; the request goes on" in caplog.text


def test_a_result_can_be_waited_for(tiny, dispatch):
    gate = Gate()
    request = dispatch().submit(tiny, {**CALL, "callback_on_step_end": gate})
    with pytest.raises(TimeoutError, match=r"it has not finished in 0.01 seconds; wait longer, or cancel"):
        request.result(0.01)
    gate.opened.set()
    assert request.result(60).seed == 3
