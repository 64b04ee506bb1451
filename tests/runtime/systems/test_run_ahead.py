"""Systems with loops of their own, in parts: the prelude runs once for all timesteps, and every step has its bits."""

import numpy as np
import pytest
from class_checkpoints import CLASS_CHECKPOINTS

from diffoundry.runtime import EngineOptions, load
from diffoundry.runtime.engines.part_names import PRELUDE
from diffoundry.runtime.engines.partitioned import PartitionedEngine
from diffoundry.runtime.pipelines.example_inputs import make_example_inputs

NAMES = (
    "DiTPipeline",
    "KarrasVePipeline",
    "RePaintPipeline",
    "SanaSprintPipeline",
    "ScoreSdeVePipeline",
    "VQDiffusionPipeline",
)


def _steps(pipe):
    """Return the latents of every step of a default call."""
    text = ("a cat",) if pipe.needs_prompt else ()
    examples = make_example_inputs(pipe.example_inputs, *pipe.default_size)
    given = {name: value for name, value in examples.items() if name in pipe.argument_names}
    arguments = {**given, **pipe.setting_arguments(4, 4.0)}
    return [step.latents for step in pipe.start(*text, seed=0, **arguments)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_prelude_runs_once_for_all_timesteps(system_checkpoint, exported, monkeypatch, name):
    folder = system_checkpoint(f"class-{name}", CLASS_CHECKPOINTS[name].make)
    whole, parts = (load(exported(folder, partition=cut), options=EngineOptions(threads=1)) for cut in (False, True))
    calls, run_part = [], PartitionedEngine._run_part

    def note(self, part, feeds):
        if part.name == PRELUDE:
            calls.append(len(feeds["timestep"]))
        return run_part(self, part, feeds)

    monkeypatch.setattr(PartitionedEngine, "_run_part", note)
    ours, exact = _steps(parts), _steps(whole)
    assert len(ours) == len(exact) >= 4
    assert all(np.array_equal(one, other) for one, other in zip(ours, exact, strict=True))
    assert len(calls) == 2, "alone, to compare its bits, and with all that follow"
    assert calls[1] > calls[0]
