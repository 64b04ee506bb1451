"""A pipeline of ours beside diffusers': the same arguments, the latents after every step, the images."""

import inspect

import diffusers
import numpy as np
import torch

from diffoundry.exporter.reference.calls import watched

# float32 through 20 UNet calls by two libraries that sum in different orders: seen are 5e-6 to 3e-5 on latents of
# scale 1. A wrong coefficient, timestep or noise shows as 1e-2 and more.
TOLERANCE = 1e-4


def diffusers_pipeline(folder, name="StableDiffusionPipeline", **parts):
    """diffusers' pipeline `name` of a checkpoint, in fp32."""
    pipe = getattr(diffusers, name).from_pretrained(folder, torch_dtype=torch.float32, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def reference(pipe, prompt, seed, **arguments):
    """diffusers' latents after every step, and its images: an array (B, H, W, 3), or PIL images as one."""
    latents = []

    def keep(_pipe, _index, _timestep, values):
        latents.append(values["latents"].numpy().copy())
        return {}

    seeds = seed if isinstance(seed, list) else [seed]
    if "callback_on_step_end" not in inspect.signature(pipe.__call__).parameters:
        return _reference_of_old_pipeline(pipe, prompt, seeds, arguments)
    generators = [torch.Generator().manual_seed(value) for value in seeds]
    arguments = {"output_type": "np", **arguments}
    images = pipe(
        prompt,
        generator=generators if isinstance(seed, list) else generators[0],
        callback_on_step_end=keep,
        **{name: to_torch(value) for name, value in arguments.items()},
    ).images
    return latents, as_array(images)


def _reference_of_old_pipeline(pipe, prompt, seeds, arguments):
    """`reference` for a pipeline without a callback after every step."""
    latents = []
    generators = [torch.Generator().manual_seed(value) for value in seeds]
    taken = {name: to_torch(value) for name, value in {"output_type": "np", **arguments}.items()}
    with watched(pipe, lambda _index, _timestep, values: latents.append(values.numpy().copy())):
        images = pipe(prompt, generator=generators if len(seeds) > 1 else generators[0], **taken).images
    return latents, as_array(images)


def compare(ours, theirs, prompt, *, seed=0, ours_only=None, **arguments):
    """Follow a run step by step; returns the worst error of the latents, relative to their scale, and the images."""
    expected = reference(theirs, prompt, seed, **arguments)
    return follow(ours, expected, prompt, seed=seed, **arguments, **(ours_only or {}))


def compare_each(pipelines, theirs, prompt, *, seed=0, **arguments):
    """`compare` for pipelines of several targets, with one run of diffusers; returns the last one's images."""
    expected = reference(theirs, prompt, seed, **arguments)
    return [follow(ours, expected, prompt, seed=seed, **arguments)[1] for ours in pipelines.values()][-1]


def follow(ours, expected, prompt, *, seed, **arguments):
    """`compare` with what `reference` returned."""
    latents, images = expected
    assert latents
    run = ours.start(prompt, seed=seed, **{"output_type": "np", **arguments})
    worst = 0.0
    for step, expected in zip(run, latents, strict=True):
        error = np.abs(step.latents - expected).max() / max(1.0, np.abs(expected).max())
        worst = max(worst, error)
        assert error < TOLERANCE, f"step {step.index}: {error}"
    ours_images = as_array(run.finish().images)
    tolerance = 2e-3 if ours_images.dtype.kind == "f" else 1
    np.testing.assert_allclose(ours_images, images, atol=tolerance)
    return worst, ours_images


def as_array(images):
    """PIL images as int (B, H, W, 3); torch tensors and arrays as arrays."""
    if isinstance(images, list):
        return np.stack([np.asarray(image).astype(int) for image in images])
    return images.numpy() if isinstance(images, torch.Tensor) else images


def to_torch(value):
    """Latents and embeddings for diffusers, which takes arrays for images; everything else as it is."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and _is_tensor(value) else value


def _is_tensor(value):
    return value.dtype.kind == "f" and (value.ndim != 4 or value.shape[-1] != 3)
