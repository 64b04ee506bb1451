"""The arguments of one image, under the names diffusers gives them, checked before any work."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.random import Generator, TorchCpuGenerator

__all__ = ["Request", "check_fraction", "check_request", "make_generator_for"]

FloatArray = npt.NDArray[np.float32]

OUTPUT_TYPES = ("pil", "np", "latent")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The arguments that every call may have, with the names and defaults of diffusers' `StableDiffusionPipeline`.

    Prompts have a class of their own for each family (`Family.Arguments`), and each task has what only it needs.

    Attributes:
        height: Pixels; None takes the checkpoint's own size.
        width: Pixels; None takes the checkpoint's own size.
        num_inference_steps: Steps of the scheduler.
        timesteps: The caller's own timesteps in place of `num_inference_steps`.
        sigmas: The caller's own sigmas in place of `num_inference_steps`.
        denoising_end: The fraction of the schedule after which the run ends, above 0 and below 1, so that another
            model goes on with its latents; None runs to the end.
        guidance_scale: 1 or less runs without guidance, at half the cost.
        guidance_rescale: Lin et al. 2023; 0 is off.
        num_images_per_prompt: Images for every prompt.
        eta: DDIM's eta.
        seed: Seed of torch's CPU generator, or one for each image; None draws one and reports it.
        generator: Generators in place of `seed`: one, or one for each image.
        latents: Start noise, float32 (B, C, height/8, width/8), in place of drawing it.
        scheduler: A scheduler's name ("EulerDiscrete") that takes over the checkpoint's config; None keeps the
            checkpoint's own.
        output_type: "pil", "np" or "latent".
        callback_on_step_end: Called after every step with the pipeline, the step's index, its timestep and a dict of
            tensors; the dict that it returns replaces them. None calls nothing.
        callback_on_step_end_tensor_inputs: Their names: "latents", "prompt_embeds", and of Stable Diffusion XL
            "add_text_embeds", "add_time_ids".
    """

    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 50
    timesteps: Sequence[float] | None = None
    sigmas: Sequence[float] | None = None
    denoising_end: float | None = None
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    num_images_per_prompt: int = 1
    eta: float = 0.0
    seed: int | Sequence[int] | None = None
    generator: Generator | Sequence[Generator] | None = None
    latents: FloatArray | None = None
    scheduler: str | None = None
    output_type: str = "pil"
    callback_on_step_end: Callable[..., Any] | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)


def check_request(
    request: Request,
    size: tuple[int, int],
    factor: int,
    dims: Mapping[str, DimSpec],
    buckets: Sequence[tuple[int, int]] = (),
) -> None:
    """Check everything that can be checked before an engine runs.

    Args:
        request: What the caller asked for.
        size: Height and width in pixels after defaults.
        factor: Pixels to a latent.
        dims: What the bundle's engines take, from its recipe; empty for a folder without a manifest.
        buckets: The only sizes (height, width) that they take, from its recipe; empty when dims say it all.

    Raises:
        InputError: The first argument that does not fit: subject, got, expected.
    """
    _check_numbers(request)
    check_fraction("denoising_end", request.denoising_end)
    for name, value in zip(("height", "width"), size, strict=True):
        if value % factor or value < factor:
            raise InputError(f"{name}: got {value}, expected a multiple of {factor} (pixels to a latent)")
        refusal = dims[name].refusal(value) if name in dims else None
        if refusal:
            raise InputError(f"{name}: got {value}, {refusal}: that is what this bundle was exported for")
    if buckets and size not in buckets:
        known = ", ".join(f"{width}x{height}" for height, width in buckets)
        raise InputError(
            f"size: got {size[1]}x{size[0]}, expected one of {known}: the sizes that this bundle has engines for"
        )


def check_fraction(name: str, value: float | None) -> None:
    """Refuse a part of the schedule that is none.

    Raises:
        InputError: Not above 0 and below 1; None is taken.
    """
    if value is not None and not (isinstance(value, int | float) and 0 < value < 1):
        raise InputError(f"{name}: got {value!r}, expected a number above 0 and below 1")


def _check_numbers(request: Request) -> None:
    for name in ("num_inference_steps", "num_images_per_prompt"):
        value = getattr(request, name)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name}: got {value!r}, expected a whole number of at least 1")
    for name, low, high in (("guidance_scale", 0.0, np.inf), ("guidance_rescale", 0.0, 1.0), ("eta", 0.0, 1.0)):
        value = getattr(request, name)
        if not isinstance(value, int | float) or not low <= value <= high or not np.isfinite(value):
            upper = "" if high == np.inf else f" and at most {high:g}"
            raise InputError(f"{name}: got {value!r}, expected a number of at least {low:g}{upper}")
    if request.output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type: got {request.output_type!r}, expected one of {', '.join(OUTPUT_TYPES)}")
    if request.seed is not None and request.generator is not None:
        raise InputError("seed and generator: got both, expected at most one of them")


def make_generator_for(
    request: Request, images: int
) -> tuple[int | tuple[int, ...] | None, Generator | Sequence[Generator]]:
    """The seed to report and the generators to draw from.

    Without seed, generator and latents a seed is drawn from the system, so that every image can be generated again.

    Raises:
        InputError: A list of seeds or generators of another length than there are images.
    """
    if request.generator is not None:
        if isinstance(request.generator, Sequence) and len(request.generator) != images:
            raise InputError(f"generator: got {len(request.generator)}, expected one or {images}")
        return None, request.generator
    seed = request.seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    if isinstance(seed, int):
        return seed, TorchCpuGenerator(seed)
    if len(seed) != images:
        raise InputError(f"seed: got {len(seed)} seeds, expected one or {images}, one for each image")
    return tuple(seed), [TorchCpuGenerator(value) for value in seed]
