"""SigLIP 2's image encoder for images of any ratio: an image to a state for each of its patches.

Tschannen et al. 2025, https://arxiv.org/abs/2502.14786.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import Config, integer, refuse
from diffoundry.runtime.images.siglip2_processor import Siglip2Processor
from diffoundry.runtime.models.protocols import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Siglip2VisionModel", "interpolation_weights", "position_side"]


def position_side(config: Config, subject: str) -> int:
    """Return rows, and columns, of the learned positions.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: Their number is no square.
    """
    count = integer(config, "num_patches", 256, subject=subject)
    side = math.isqrt(count)
    if side**2 != count:
        raise refuse(subject, "num_patches", count, "the square of a whole number")
    return side


def interpolation_weights(side: int, rows: int, columns: int) -> FloatArray:
    """Return the weights with which learned positions of a square are interpolated.

    torch: `interpolate(mode="bilinear", antialias=True)`.

    Args:
        side: Rows and columns of the learned positions.
        rows: Of patches of the image.
        columns: Of patches of the image.

    Returns:
        float32 (rows * columns, side * side).
    """
    down, across = _axis_weights(side, rows), _axis_weights(side, columns)
    joined = np.einsum("ac,bd->abcd", down, across)
    return np.ascontiguousarray(joined.reshape(rows * columns, side * side).astype(np.float32))


def _axis_weights(side: int, size: int) -> np.ndarray:
    """Return the weights (size, side) of one axis: a triangle around each place, wider where places are fewer."""
    scale = side / size
    width = max(scale, 1.0)
    weights = np.zeros((size, side))
    for index in range(size):
        middle = scale * (index + 0.5)
        first, last = max(int(middle - width + 0.5), 0), min(int(middle + width + 0.5), side)
        places = np.arange(first, last)
        row = np.clip(1.0 - np.abs((places - middle + 0.5) / width), 0.0, None)
        weights[index, first:last] = row / row.sum()
    return weights


class Siglip2VisionModel:
    """Runs the image encoder. transformers: `Siglip2VisionModel`, `Siglip2ImageProcessorPil`.

    transformers pads the patches of an image to one number and hides the padding. Here it is left out.

    Attributes:
        component: Name of the component.
        width: Of a state.
        processor: Prepares images.
    """

    def __init__(self, session: EngineSession, component: str, folder: str) -> None:
        """Read both configs; the engine is opened when first needed.

        Args:
            session: The engines.
            component: Name of the component.
            folder: Folder of the preparation of images.

        Raises:
            BundleError: The bundle lacks a config.
            ConfigError: A value has another type, is out of range, or does not fit the others.
        """
        config, subject = session.bundle.config(component), f"{component}/config.json"
        self.component = component
        self.width = integer(config, "hidden_size", 768, subject=subject)
        self._side = position_side(config, subject)
        self.processor = Siglip2Processor.from_config(session.bundle.read_object(f"{folder}/preprocessor_config.json"))
        self._session = session

    def __call__(self, image: "Image") -> FloatArray:
        """Return states (rows, columns, width) of the patches of an image."""
        patches, rows, columns = self.processor(image)
        feeds = {
            "pixel_values": patches[None],
            "position_weights": interpolation_weights(self._side, rows, columns)[None],
        }
        outputs = Outputs(self._session.run(self.component, feeds), self.component)
        states = outputs.take("last_hidden_state", (1, rows * columns, self.width))
        return states.reshape(rows, columns, self.width)
