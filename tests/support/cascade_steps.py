"""Follows diffusers' pipelines of Stable Cascade and Würstchen, whose priors make embeddings, and ours."""

import diffusers
import numpy as np
import pytest
import torch
from system_pair import TOLERANCE

from diffoundry.exporter.reference.calls import call_pipeline
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.pipelines.chain import chain

__all__ = ["as_tensors", "check_chain", "check_errors", "check_prior", "normal"]


def normal(*shape, seed=0):
    """Return random numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_tensors(arguments):
    """Return arguments with tensors instead of arrays, as diffusers takes them."""
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()
    }


def check_prior(ours, theirs, arguments):
    """Check the latents after every step of a prior; return both results."""
    settings = {**arguments}
    prompt = settings.pop("prompt", None)
    latents, output = _follow(theirs, prompt, output_type="pt", **settings)
    run = ours.start(prompt, seed=0, **settings)
    _check_steps(run, latents)
    return run.finish(), output


def check_chain(ours, combined, stages, arguments, renamed):
    """Check the latents after every step of both stages, and the images to 60 dB.

    Args:
        ours: Our chain.
        combined: Name of diffusers' class of both stages.
        stages: diffusers' pipelines of prior and decoder.
        arguments: Of each call.
        renamed: Arguments that diffusers names otherwise, ours to theirs.
    """
    prior, decoder = (stage.components for stage in stages)
    prefixed = {f"prior_{key}": part for key, part in prior.items()}
    theirs = getattr(diffusers, combined)(**prefixed, **decoder)
    theirs.set_progress_bar_config(disable=True)
    for call in arguments:
        settings = {**call}
        prompt = settings.pop("prompt", None)
        named = {renamed.get(key, key): value for key, value in settings.items()}
        latents, output = _follow(theirs, prompt, output_type="np", **named)
        run = ours.start(prompt, seed=0, output_type="np", **settings)
        _check_steps(run, latents)
        images = run.finish().images
        assert run.count == len(images)
        assert -10 * np.log10(np.mean((images - output.images) ** 2) + 1e-12) > 60


def check_errors(prior, decoder, prior_errors, decoder_errors, size, features):
    """Check that wrong arguments are refused, those of a chain included.

    Args:
        prior: Our pipeline.
        decoder: Our pipeline.
        prior_errors: Name of a case to arguments of the prior, and the message.
        decoder_errors: Likewise of the decoder.
        size: Arguments of the prior for the size of the image.
        features: Embeddings that fit the decoder.
    """
    given = {"prompt": "a cat", "num_inference_steps": 1}
    for arguments, words in prior_errors.values():
        with pytest.raises(InputError, match=words):
            prior(**{**given, **size, **arguments})
    for arguments, words in decoder_errors.values():
        with pytest.raises(InputError, match=words):
            decoder(**{**given, "image_embeddings": features, **arguments})
    with pytest.raises(InputError, match="image_embeddings: got .* choose another height or width"):
        chain(prior, decoder).start("a cat", height=128, width=80)


def _follow(theirs, prompt, **arguments):
    """Return diffusers' latents after every step, and its result."""
    latents = []
    output = call_pipeline(
        theirs, prompt, lambda _index, _timestep, values: latents.append(values.numpy().copy()), watch=True,
        generator=torch.Generator().manual_seed(0), **as_tensors(arguments),
    )  # fmt: skip
    return latents, output


def _check_steps(run, latents):
    for step, expected in zip(run, latents, strict=True):
        assert np.abs(step.latents - expected).max() < TOLERANCE * np.sqrt(np.mean(expected**2)), step
    assert run.total == len(latents)
