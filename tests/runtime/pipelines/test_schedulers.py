"""Every scheduler in the denoising loop: it runs to the end, or is refused before the first step with a sentence."""

import diffusers
import numpy as np
import pytest
import torch
from pipeline_harness import diffusers_pipeline

from diffoundry.runtime import load
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.schedulers import scheduler_class, scheduler_names

FLOW = "is for flow-matching models such as Stable Diffusion 3, but this checkpoint is another model"

REFUSED = {
    "CogVideoXDPMScheduler": "is for CogVideoX, which generates videos, but this checkpoint is another model",
    "DDPMWuerstchenScheduler": "is for Wuerstchen models, but this checkpoint is another model",
    "FlowMapEulerDiscreteScheduler": FLOW,
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "FlowMatchLCMScheduler": FLOW,
    "KarrasVeScheduler": "It needs the loop of KarrasVePipeline",
    "LTXEulerAncestralRFScheduler": FLOW,
    "MiniMaxH3Scheduler": FLOW,
    "PiflowScheduler": "needs a model with 40 output channels for a sample of 4 channels, but this model has 4",
    "RePaintScheduler": "It needs the loop of RePaintPipeline",
    "ScoreSdeVeScheduler": "It needs the loop of ScoreSdeVePipeline",
    "ScoreSdeVpScheduler": "is for score models of a variance-preserving SDE, but this checkpoint is another model",
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
"""Schedulers that need another config, to it and a part of the sentence that refuses the checkpoint's."""

OTHER_MODELS = {
    "ConsistencyDecoderScheduler": "is for the consistency decoder of DALL-E 3, but this checkpoint is another model",
    "HeliosDMDScheduler": FLOW,
    "HeliosScheduler": FLOW,
    "UnCLIPScheduler": "is for unCLIP models such as Karlo, but this checkpoint is another model",
}
"""Those of them that Stable Diffusion's loop refuses with that config too, to a part of the sentence."""

TWO_STEPS = ("ConsistencyDecoderScheduler", "SCMScheduler")
"""Schedulers with timesteps for two steps only."""

ARGUMENTS = {"num_inference_steps": 4, "height": 16, "width": 16, "seed": 0, "output_type": "latent"}


def loop_fault(pipe, scheduler, steps=4):
    """Run a scheduler, None for the checkpoint's own; the fault in words, the sentence of a refusal, or None."""
    calls = []
    pipe.session.on_call = lambda component, *_: calls.append(component)
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
            other = OTHER_MODELS.get(name)
            if (found is not None) if other is None else not (found and "after 0 steps: " in found and other in found):
                wrong[f"{name}, suitable config"] = found
            tiny.scheduler_config = own
    tiny.session.on_call = None
    assert wrong == {}, "\n".join(f"{name}: {text}" for name, text in wrong.items())


def diffusers_runs(pipe, config, name):
    """Return whether diffusers' pipeline finishes its loop with a scheduler of this name."""
    arguments = {"num_inference_steps": 4, "height": 64, "width": 64, "output_type": "latent"}
    try:
        pipe.scheduler = getattr(diffusers, name).from_config(config)
        pipe("a red apple", generator=torch.Generator().manual_seed(0), **arguments)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def ours_runs(pipe, name):
    """Return whether ours does; False where it is refused before the first step, any later fault is raised."""
    arguments = {**ARGUMENTS, "height": 64, "width": 64}
    try:
        run = pipe.start("a red apple", scheduler=name, **arguments)
    except (ConfigError, InputError):
        return False
    with np.errstate(all="ignore"):
        run.finish()
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "pipeline", "count"), [("sd1", "StableDiffusionPipeline", 27), ("sd3", "StableDiffusion3Pipeline", 33)]
)
def test_a_scheduler_runs_where_diffusers_runs_it(tiny_sd_checkpoint, portable_bundle, variant, pipeline, count):
    theirs = diffusers_pipeline(tiny_sd_checkpoint(variant), pipeline)
    ours, config = load(portable_bundle(variant), target="onnxruntime"), theirs.scheduler.config
    expected = [name for name in scheduler_names() if diffusers_runs(theirs, config, name)]
    assert len(expected) == count
    assert [name for name in scheduler_names() if ours_runs(ours, name)] == expected


@pytest.mark.parametrize(
    ("scaled", "name", "example"),
    [
        (True, "FlowMatchLCMScheduler", "EulerDiscreteScheduler"),
        (True, "PiflowScheduler", "EulerDiscreteScheduler"),
        (False, "DDPMWuerstchenScheduler", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_a_scheduler_for_other_models_is_refused_with_an_example(scaled, name, example):
    scheduler = scheduler_class(name)()
    with pytest.raises(
        InputError,
        match=f"^{name} is for {scheduler.made_for}, but this checkpoint is another model. Choose another scheduler, "
        f"for example {example}.$",
    ):
        scheduler.check_latents(scaled=scaled)


def test_a_scheduler_without_a_suitable_model_names_the_channels(tiny):
    with pytest.raises(InputError, match="needs a model with .* output channels for a sample of 4 channels"):
        tiny.start("a red apple", scheduler="Piflow", **ARGUMENTS)


def test_mu_is_refused_where_the_scheduler_ignores_it(tiny):
    with pytest.raises(InputError, match="EulerDiscreteScheduler ignores mu, but mu is 1.0"):
        tiny.start("a red apple", scheduler="EulerDiscrete", mu=1.0, **ARGUMENTS)
