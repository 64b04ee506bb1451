"""Converts the VAE's output to images, bit for bit as diffusers' `VaeImageProcessor`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from diffoundry.runtime.errors import EngineError, InputError

if TYPE_CHECKING:  # Pillow takes 0.2 s to import: only code that handles images pays for it
    from PIL.Image import Image

    from diffoundry.runtime.images.if_watermark import IFWatermarker

__all__ = ["OUTPUT_TYPES", "blacken", "finish_images", "postprocess", "to_pil"]

OUTPUT_TYPES = ("pil", "np", "latent")


@overload
def postprocess(sample: NDArray[Any], output_type: Literal["pil"] = "pil", channels: int = 3) -> "list[Image]": ...
@overload
def postprocess(sample: NDArray[Any], output_type: Literal["np", "latent"], channels: int = 3) -> NDArray[Any]: ...
@overload
def postprocess(sample: NDArray[Any], output_type: str, channels: int = 3) -> "list[Image] | NDArray[Any]": ...
def postprocess(sample: NDArray[Any], output_type: str = "pil", channels: int = 3) -> "list[Image] | NDArray[Any]":
    """Convert the VAE decoder's output to images.

    diffusers: `VaeImageProcessor.postprocess`.

    Args:
        sample: Floats, (B, channels, H, W), about -1..1; 4 channels are RGBA.
        output_type: "pil" for PIL images; "np" for float32 (B, H, W, channels) in 0..1; "latent" for `sample` itself.
        channels: Of the images.

    Raises:
        InputError: Another shape or output type.
        EngineError: The sample holds NaN, which a PIL image cannot hold; diffusers would give noise.
    """
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type: got {output_type!r}, expected one of {', '.join(OUTPUT_TYPES)}")
    if output_type == "latent":
        return sample
    if sample.ndim != 4 or sample.shape[1] != channels or not np.issubdtype(sample.dtype, np.floating):
        raise InputError(
            f"decoded sample: got {sample.dtype} {sample.shape}, expected floats (batch, {channels}, height, width)"
        )
    pixels = np.clip(sample * 0.5 + 0.5, 0, 1).transpose(0, 2, 3, 1).astype(np.float32)
    return pixels if output_type == "np" else to_pil(pixels)


def to_pil(pixels: NDArray[np.float32]) -> "list[Image]":
    """Convert pixels (B, H, W, 3) in 0..1 to PIL images.

    Raises:
        EngineError: They hold NaN, which a PIL image cannot hold; diffusers would give noise.
    """
    from PIL.Image import fromarray

    if broken := int(np.isnan(pixels).sum()):
        raise EngineError(
            f"decoded sample: {broken} of {pixels.size} values are NaN, expected numbers; run the bundle in a higher "
            f"precision, or 'diffoundry verify' to find the component at fault"
        )
    return [fromarray(image) for image in np.round(pixels * 255).astype(np.uint8)]


def blacken(pixels: NDArray[Any], flags: Sequence[bool], output_type: str) -> Any:
    """Blacken flagged images (B, H, W, 3) in 0..1, and convert them to the output type, "pil" or "np"."""
    pixels = np.array(pixels)
    pixels[np.asarray(flags, bool)] = 0
    return to_pil(pixels) if output_type == "pil" else pixels


def finish_images(images: Any, flags: list[bool] | None, watermarker: "IFWatermarker | None", output_type: str) -> Any:
    """Blacken what a safety checker flags, and draw a watermark on PIL images.

    Args:
        images: Of `output_type`; with flags, float32 (B, H, W, 3) in 0..1.
        flags: For each image whether it is blacked out; None without a check.
        watermarker: Draws the watermark; None draws none.
        output_type: As in `CommonInputs.output_type`.
    """
    if flags is not None:
        images = blacken(images, flags, output_type)
    return watermarker.apply_watermark(images) if watermarker is not None and output_type == "pil" else images
