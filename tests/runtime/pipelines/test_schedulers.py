"""Every scheduler in the denoising loop: it runs to the end, or is refused before the first step with a sentence."""

import numpy as np
import pytest

from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers import scheduler_names

REFUSED = {
    "KarrasVeScheduler": "It needs the loop of KarrasVePipeline",
    "PiflowScheduler": "needs a model with 40 output channels for a sample of 4 channels, but this model has 4",
    "RePaintScheduler": "It needs the loop of RePaintPipeline",
    "ScoreSdeVeScheduler": "It needs the loop of ScoreSdeVePipeline",
    "VQDiffusionScheduler": "option 'num_vec_classes' is missing",
}
"""Schedulers that no denoising loop of this pipeline can run, to a part of the sentence."""

MODELS = {
    "ConsistencyDecoderScheduler": ({"num_train_timesteps": 1024}, "'num_train_timesteps' is 1000, expected more than"),
    "HeliosDMDScheduler": (
        {"prediction_type": "flow_prediction", "stages": 1},
        "is 'epsilon', expected 'flow_prediction'",
    ),
    "HeliosScheduler": ({"prediction_type": "flow_prediction", "stages": 1}, "It needs the loop of a Helios pipeline"),
    "SCMScheduler": ({"prediction_type": "trigflow"}, "'prediction_type' is 'epsilon', expected 'trigflow'"),
    "UnCLIPScheduler": ({"beta_schedule": "squaredcos_cap_v2"}, "expected 'squaredcos_cap_v2'"),
}
"""Schedulers that need another model, to its config and a part of the sentence that refuses this model."""

TWO_STEPS = ("ConsistencyDecoderScheduler", "SCMScheduler")
"""Schedulers with timesteps for two steps only."""

ARGUMENTS = {"num_inference_steps": 4, "height": 16, "width": 16, "seed": 0, "output_type": "latent"}


def loop_fault(pipe, scheduler, steps=4):
    """Run a scheduler, None for the checkpoint's own; the fault in words, the sentence of a refusal, or None."""
    calls = []
    pipe.components.on_call = lambda component, *_: calls.append(component)
    try:
        run = pipe.start("a red apple", scheduler=scheduler, **{**ARGUMENTS, "num_inference_steps": steps})
    except (ConfigError, InputError) as error:
        return f"after {calls.count('unet')} steps: {error}"
    try:
        with np.errstate(all="ignore"):
            steps = list(run)
    except Exception as error:  # noqa: BLE001  # the test lists all schedulers that fail
        return f"in step {calls.count('unet')}: {error!r}"
    if not len(steps) == run.total == calls.count("unet"):
        return f"{len(steps)} of {run.total} steps in {calls.count('unet')} calls"
    return None


def test_every_scheduler_runs_or_is_refused_before_the_first_step(tiny):
    names, own, wrong = scheduler_names(), tiny.scheduler_config, {}
    assert len(names) == 46
    expected = {**REFUSED, **{name: sentence for name, (_, sentence) in MODELS.items()}}
    for name in names:
        found = loop_fault(tiny, name)
        refused = found is not None and found.startswith("after 0 steps: ") and expected.get(name, "?") in found
        if (found is not None and not refused) or (found is None and name in expected):
            wrong[name] = found
        if name in MODELS:
            tiny.scheduler_config = {**own, **MODELS[name][0], "_class_name": name}
            found = loop_fault(tiny, None, steps=2 if name in TWO_STEPS else 4)
            if found is not None:
                wrong[f"{name}, suitable model"] = found
            tiny.scheduler_config = own
    tiny.components.on_call = None
    assert wrong == {}, "\n".join(f"{name}: {text}" for name, text in wrong.items())


def test_a_scheduler_without_a_suitable_model_names_the_channels(tiny):
    with pytest.raises(InputError, match="needs a model with .* output channels for a sample of 4 channels"):
        tiny.start("a red apple", scheduler="Piflow", **ARGUMENTS)


def test_mu_is_refused_where_the_scheduler_ignores_it(tiny):
    with pytest.raises(InputError, match="EulerDiscreteScheduler ignores mu, but mu is 1.0"):
        tiny.start("a red apple", scheduler="EulerDiscrete", mu=1.0, **ARGUMENTS)
