"""Reads the watermark of DeepFloyd IF from a bundle."""

import numpy as np

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.formats.safetensors import Safetensors
from diffoundry.runtime.images.if_watermark import IFWatermarker

__all__ = ["FOLDER", "read_watermarker"]

FOLDER = "watermarker"
"""Folder of the watermark in checkpoints and bundles."""

_FILE, _TENSOR = f"{FOLDER}/diffusion_pytorch_model.safetensors", "watermark_image"


def read_watermarker(bundle: Bundle) -> IFWatermarker | None:
    """Return the watermarker of a bundle; None where its checkpoint has none.

    Raises:
        BundleError: The file of the watermark is missing, or holds no image with four channels.
    """
    entry = bundle.model_index.get(FOLDER)
    if not isinstance(entry, list) or not any(entry):
        return None
    file = Safetensors(bundle.file(_FILE))
    shape = file.entries[_TENSOR].shape if _TENSOR in file else None
    if shape is None or len(shape) != 3 or shape[2] != 4 or 0 in shape:
        raise BundleError(
            f"bundle {bundle.root}: {_FILE}: got {_TENSOR!r} of shape {shape}, expected (height, width, 4); export the "
            f"bundle again"
        )
    whole = file.entries[_TENSOR].dtype == "U8"
    return IFWatermarker(np.array(file.stored(_TENSOR) if whole else file.read(_TENSOR)).astype(np.uint8))
