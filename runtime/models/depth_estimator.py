"""DPTForDepthEstimation: the depth of an image, for depth to image."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.images.dpt_image_processor import DPTImageProcessor
from diffoundry.runtime.models.clip_vision import EXTRACTOR_FILE
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import DEPTH_ESTIMATOR

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DPTForDepthEstimation"]


class DPTForDepthEstimation:
    """Runs the depth estimator of a bundle. transformers: `DPTForDepthEstimation`.

    Attributes:
        processor: Prepares PIL images.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the configs; the engine is opened when first needed.

        Raises:
            BundleError: The bundle lacks the component or the config of its image processor.
            ConfigError: The image processor is of another kind.
        """
        self.component = session.bundle.component(DEPTH_ESTIMATOR)
        self.processor = DPTImageProcessor.from_config(session.bundle.read_object(EXTRACTOR_FILE))
        config, file = session.bundle.config(self.component), f"{self.component}/config.json"
        self._side = integer(config, "image_size", 384, subject=file)
        self._session = session

    def check(self, images: "Sequence[Image]") -> None:
        """Refuse images that the image processor does not bring to the size that the network takes.

        Raises:
            InputError: As said.
        """
        for image in images:
            height, width = self.processor.size_of(image)
            if (height, width) != (self._side, self._side):
                raise InputError(
                    f"image: got {image.width} x {image.height} pixels, which this checkpoint resizes to {width} x "
                    f"{height} for its depth estimator, expected {self._side} x {self._side}; crop the image to a "
                    f"square, or pass depth_map"
                )

    def __call__(self, images: "Sequence[Image]") -> FloatArray:
        """Return the depth of images, larger where they are nearer, (B, h, w).

        Args:
            images: PIL images of one size and of 8 bits a channel.

        Raises:
            InputError: See `check`.
            EngineError: The engine failed.
        """
        self.check(images)
        feeds = {"pixel_values": self.processor(images)}
        outputs = Outputs(self._session.run(self.component, feeds), self.component)
        return outputs.take("predicted_depth", (len(images), None, None))
