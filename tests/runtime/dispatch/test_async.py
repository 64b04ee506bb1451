"""`agenerate` and `astart`: calls of a pipeline from asyncio."""

import asyncio

import numpy as np
import pytest
from dispatch_calls import CALL, Gate, held

from diffoundry.runtime.dispatch import Dispatcher
from diffoundry.runtime.errors import CancelledError, InputError


def test_agenerate_gives_the_images_of_calls_and_shares_engine_calls(tiny):
    calls = [{**CALL, "seed": seed} for seed in range(3)]

    async def generate():
        tiny.dispatcher = Dispatcher(gather_seconds=30)
        with tiny.dispatcher as dispatcher:
            with held(dispatcher, tiny, CALL):
                requests = [tiny.astart(**call) for call in calls]
            return [*await asyncio.gather(*requests), await tiny.agenerate(**CALL)], dispatcher.statistics()

    results, statistics = asyncio.run(generate())
    for result, call in zip(results, [*calls, CALL], strict=True):
        np.testing.assert_array_equal(result.images, tiny(**call).images)
    assert any(one.joined_calls for one in statistics.components.values())
    assert (statistics.done, statistics.images) == (4, 4)


def test_astart_gives_steps_and_previews_then_the_result(tiny):
    async def follow():
        request = tiny.astart(**CALL, previews=1)
        events = [event async for event in request]
        return events, await request, [event async for event in request]

    events, result, again = asyncio.run(follow())
    assert [event.index for event in events] == [0, 1, 2, 3]
    assert [event.index for event in events if event.images] == [1]
    assert events == again
    np.testing.assert_array_equal(result.images, tiny(**CALL).images)


def test_errors_are_raised_where_they_are_awaited(tiny):
    with pytest.raises(InputError, match="height: got 65, expected"):
        asyncio.run(tiny.agenerate(**{**CALL, "height": 65}))

    def fail(*_):
        raise ZeroDivisionError("my own mistake")

    with pytest.raises(ZeroDivisionError, match="my own mistake"):
        asyncio.run(tiny.agenerate(**CALL, callback_on_step_end=fail))


@pytest.mark.parametrize("way", ["await", "async for", "async with"])
def test_cancelling_the_task_cancels_the_run(tiny, way):
    gate = Gate(1)

    async def wait(request):
        if way == "await":
            await request
        elif way == "async for":
            async for _ in request:
                pass
        else:
            async with request:
                await asyncio.sleep(60)

    async def cancel():
        request = tiny.astart(**CALL, callback_on_step_end=gate)
        task = asyncio.create_task(wait(request))
        await asyncio.to_thread(gate.reached.wait, 60)
        calls = tiny.dispatcher.statistics().engine_calls
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.opened.set()
        await asyncio.to_thread(request.wait, 60)
        return request, tiny.dispatcher.statistics().engine_calls - calls

    request, more = asyncio.run(cancel())
    assert (request.state, more) == ("cancelled", 0)
    with pytest.raises(CancelledError, match="it was cancelled"):
        request.result(0)


def test_closing_the_pipeline_closes_its_own_dispatcher_alone(tiny_folder):
    from diffoundry.runtime import load

    pipe = load(tiny_folder)
    own = pipe.dispatcher
    assert pipe.dispatcher is own
    with Dispatcher() as shared:
        pipe.dispatcher = shared
        assert own.closed
        pipe.close()
        assert not shared.closed
