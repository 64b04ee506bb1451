"""The timesteps that the memory of a run expects, from which a partitioned network computes its prelude ahead."""

from typing import Any

from diffoundry.runtime.engines.run_memory import current_memory

__all__ = ["check_times_ahead"]


def check_times_ahead(pipe: Any, *prompt: str, **arguments: Any) -> None:
    """Check that the first call of the denoiser knows the times of all calls that follow it in the run, and no more."""
    calls: list[tuple[float, Any]] = []

    def note(name: str, feeds: Any, _outputs: Any, _seconds: float) -> None:
        if name == pipe.denoiser.component:
            memory = current_memory()
            assert memory is not None
            calls.append((feeds["timestep"].item(), memory.following(feeds["timestep"])))

    pipe.session.on_call = note
    try:
        for _ in pipe.start(*prompt, seed=0, **arguments):
            pass
    finally:
        pipe.session.on_call = None
    (first, following), *later = calls
    assert following is not None
    assert set(following.tolist()) == {time for time, _ in later} - {first}
    assert len(following) > 0
