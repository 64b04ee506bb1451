"""Systems in half precision: fp16 of ONNX Runtime and bf16 of OpenVINO, each against fp32 of the same target."""

from functools import partial

import diffusers
import numpy as np
import pytest
from device_precisions import requires_precision
from if_checkpoints import FIRST, IF_CHECKPOINTS
from ldm_checkpoints import LDM_CHECKPOINTS
from pixel_checkpoints import CHECKPOINTS
from tiny_kandinsky import DDIM, make_decoder, make_prior, make_text_decoder
from tiny_vq_diffusion import make_vq_diffusion
from unclip_checkpoints import UNCLIP_CHECKPOINTS
from upscaler_checkpoint import make_latent_upscaler, make_upscaler

from diffoundry.runtime import load
from diffoundry.runtime.models.transformer_2d import Transformer2DModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("openvino", "bf16")]),
]

STEPS = 4
"""PNDM takes no fewer."""

LIMITS = {"fp16": 0.008, "bf16": 0.06}
"""Largest RMS of the change by a precision, over the RMS in fp32.

Most systems change by about a tenth of it, DeepFloyd IF's second stage and DDIM by up to half.
"""


def kandinsky(make, name):
    """Return a function that writes a decoder's checkpoint into a folder."""
    return partial(make, name=name, scheduler=diffusers.DDIMScheduler(**DDIM))


SYSTEMS = {
    **UNCLIP_CHECKPOINTS,
    **IF_CHECKPOINTS,
    **{name: make for name, make in CHECKPOINTS.items() if name != "ddpm-classes"},  # which an export refuses
    **LDM_CHECKPOINTS,
    "upscaler": make_upscaler,
    "latent-upscaler": make_latent_upscaler,
    "kandinsky-prior": make_prior,
    "kandinsky-2-1-prior": partial(make_prior, name="KandinskyPriorPipeline"),
    **{name: kandinsky(make_text_decoder, name) for name in ("KandinskyPipeline", "KandinskyInpaintPipeline")},
    **{
        name: kandinsky(make_decoder, name)
        for name in ("KandinskyV22Pipeline", "KandinskyV22InpaintPipeline", "KandinskyV22ControlnetPipeline")
    },
}
"""Name of a checkpoint to the function that writes it."""


@pytest.fixture
def open_both(system_checkpoint, exported, target, precision):
    """Open a system in fp32 and in the half precision."""
    requires_precision(target, precision)

    def find(name, make):
        bundle = exported(system_checkpoint(name, make), target=target, precision=f"fp32,{precision}")
        return [load(bundle, target=target, precision=one) for one in ("fp32", precision)]

    return find


def generate(pipeline):
    """Generate as a measurement does, and return latents, or embeddings of a prior."""
    arguments = pipeline.measure_arguments(STEPS, 3.0, *pipeline.default_size)
    prompt = {"prompt": "a cat"} if "prompt" in pipeline.argument_names else {}
    result = pipeline(seed=0, output_type="latent", **prompt, **arguments)
    return result.images if pipeline.makes_images else result.image_embeds


def change(expected, given):
    """Return the RMS of a change over the RMS of the expected array. Fail on NaN and infinity in either."""
    expected, given = np.asarray(expected, np.float32), np.asarray(given, np.float32)
    assert expected.shape == given.shape
    assert np.isfinite(expected).all()
    assert np.isfinite(given).all()
    return np.sqrt(np.square(expected - given).mean() / np.square(expected).mean())


def check_decoder(pipelines, latents, limit):
    """Check the images of the same latents, so that no other code is chosen."""
    expected, given = (pipeline.decode(latents, "np") for pipeline in pipelines)
    assert 0 < change(expected, given) < limit


@pytest.mark.parametrize("name", SYSTEMS)
def test_latents_and_images_stay_close(open_both, name, precision):
    pipelines = open_both(name, SYSTEMS[name])
    expected, given = (generate(pipeline) for pipeline in pipelines)
    assert 0 < change(expected, given) < LIMITS[precision]
    if "vae_decoder" in pipelines[0].session.bundle.components:
        check_decoder(pipelines, expected, LIMITS[precision])


def test_probabilities_of_codes_stay_close(open_both, precision, monkeypatch):
    """Compare the first step, which has masks alone. Rounding may choose another code, which changes later steps."""
    pipelines = open_both("VQDiffusionPipeline-True", make_vq_diffusion)
    predict, predictions = Transformer2DModel.__call__, []

    def record(*arguments):
        predictions.append(predict(*arguments))
        return predictions[-1]

    monkeypatch.setattr(Transformer2DModel, "__call__", record)
    codes, _ = (generate(pipeline) for pipeline in pipelines)
    assert len(predictions) == 2 * STEPS
    assert 0 < change(predictions[0], predictions[STEPS]) < LIMITS[precision]
    check_decoder(pipelines, codes, LIMITS[precision])


def test_scores_of_the_safety_checker_stay_close(open_both, precision):
    """Latents do not run DeepFloyd IF's safety checker."""
    pipelines = open_both(FIRST, IF_CHECKPOINTS[FIRST])
    generator = np.random.default_rng(0)
    (spec,) = pipelines[0].session.inputs("safety_checker")
    shape = [side if isinstance(side, int) else 1 for side in spec.shape]
    feeds = {spec.name: generator.standard_normal(shape).astype(spec.dtype)}
    expected, given = (pipeline.session.run("safety_checker", feeds) for pipeline in pipelines)
    for output, scores in expected.items():
        assert 0 < change(scores, given[output]) < LIMITS[precision]
