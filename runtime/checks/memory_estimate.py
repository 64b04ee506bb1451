"""A lower bound of the memory that a call takes, from the facts of the bundle, before anything is allocated.

It counts what every engine must hold at once: latents, images, and the input and output of one convolution at full
size. Engines take more, so that a call which fits is never refused.
"""

from dataclasses import dataclass, replace

from diffoundry.runtime.engines.available_memory import check_memory
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL
from diffoundry.runtime.models.protocols import Denoiser

__all__ = ["CallSize", "check_call_memory", "least_memory"]

_FLOAT = 4
"""Bytes of a number in our arrays."""

_ARRAYS = 2
"""Input and output of a layer, and likewise the decoder's output and the image made of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallSize:
    """The sizes of one call.

    Attributes:
        images: Number of images.
        height: Pixels.
        width: Pixels.
        rows: Rows that an engine takes at once; None for any number.
        decodes: True if the latents become images.
        feature: Bytes of a number inside of the engines, at least; 0 where they do not compute in main memory.
    """

    images: int
    height: int
    width: int
    rows: int | None = None
    decodes: bool = True
    feature: int = 1


def least_memory(size: CallSize, denoiser: Denoiser, vae: AutoencoderKL) -> int:
    """Return the bytes that a call takes at least."""
    images, *latent = denoiser.latent_shape(size.images, size.height, size.width, vae)
    rows = min(images, size.rows or images)
    channels, height, width = latent
    latents = _ARRAYS * images * channels * height * width * _FLOAT
    patches = (height // denoiser.patch_size) * (width // denoiser.patch_size)
    step = _ARRAYS * rows * denoiser.first_channels * patches * size.feature
    if not size.decodes:
        return latents + step
    pixels = _ARRAYS * images * 3 * size.height * size.width * _FLOAT
    tall, wide = size.height, size.width
    if vae.tiles is not None:
        tall, wide = min(tall, vae.tiles.pixels), min(wide, vae.tiles.pixels)
    layer = _ARRAYS * (1 if vae.slicing else rows) * vae.first_channels * tall * wide * size.feature
    return latents + max(step, pixels, layer)


def check_call_memory(
    session: EngineSession,
    denoiser: Denoiser,
    vae: AutoencoderKL,
    shape: tuple[int, int, int],
    prompts: int,
    *,
    decodes: bool,
) -> None:
    """Refuse a call that does not fit into the memory of this machine.

    Args:
        session: Of the pipeline.
        denoiser: Of the pipeline.
        vae: Of the pipeline.
        shape: Number of images, height and width in pixels.
        prompts: Number of prompts.
        decodes: True if the latents become images.

    Raises:
        InputError: The message names the argument, what it would take, and what there is.
    """
    manifest = session.bundle.manifest
    batch = manifest.recipe.dims.get("batch") if manifest else None
    images, height, width = shape
    size = CallSize(
        images=images,
        height=height,
        width=width,
        rows=batch.max if batch else None,
        decodes=decodes,
        feature=session.feature_bytes(denoiser.component),
    )
    one = replace(size, images=1)
    check_memory(
        least_memory(one, denoiser, vae),
        f"height and width: got {size.height} and {size.width}, and an image of this size takes",
        "choose a smaller size, or turn VAE tiling on",
    )
    name = "prompt" if size.images == prompts else "num_images_per_prompt"
    count = prompts if size.images == prompts else size.images // prompts
    check_memory(
        least_memory(size, denoiser, vae),
        f"{name}: got {count}, and {size.images} images of {size.width} x {size.height} pixels take",
        "generate fewer images at once",
    )
