"""StableDiffusionSafetyChecker: flags images that are close to concepts its makers chose."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.feature_extractor import FeatureExtractor
from diffoundry.runtime.models.clip_vision import EXTRACTOR_FILE
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import SAFETY_CHECKER

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SafetyChecker", "StableDiffusionSafetyChecker", "flag_images"]

_STRICTER = 0.01
"""Added to the score of every other concept once a special one counts."""


class SafetyChecker:
    """Runs the network of a safety checker. A subclass judges its scores.

    Attributes:
        extractor: Prepares images for the network.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config of the feature extractor; the engine is opened when first needed.

        Raises:
            BundleError: The bundle lacks the component or the feature extractor's config.
            ConfigError: The feature extractor is of another kind.
        """
        self.component = session.bundle.component(SAFETY_CHECKER)
        self.extractor = FeatureExtractor.from_config(session.bundle.read_object(EXTRACTOR_FILE))
        self._session = session

    def scores(self, images: "Sequence[Image]", names: Sequence[str], width: int | None = None) -> list[FloatArray]:
        """Return the scores of images under each name, float32 (B, width).

        Args:
            images: RGB, as they were generated.
            names: Outputs of the component, without their ending "_scores".
            width: Scores of an image; None allows any number.

        Raises:
            InputError: The feature extractor makes another size than the component takes.
            EngineError: The engine failed.
        """
        outputs = Outputs(self._session.run(self.component, {"clip_input": self.extractor(images)}), self.component)
        return [outputs.take(f"{name}_scores", (len(images), width)) for name in names]


class StableDiffusionSafetyChecker(SafetyChecker):
    """diffusers: `StableDiffusionPipeline.run_safety_checker`."""

    def __call__(self, images: "Sequence[Image]") -> list[bool]:
        """Return whether each image is flagged; arguments and errors as `scores`."""
        return flag_images(*self.scores(images, ("special", "concept")))


def flag_images(special: FloatArray, concepts: FloatArray) -> list[bool]:
    """Return whether each image is flagged, from the scores of the component.

    diffusers: `StableDiffusionSafetyChecker.forward`, where a score counts when it is above 0 after it was rounded to
    three digits, and where every concept is judged more strictly once a special one counts.

    Args:
        special: float32 (B, 3).
        concepts: float32 (B, 17).
    """
    stricter = (np.round(special, 3) > 0).any(axis=1, keepdims=True) * np.float32(_STRICTER)
    return [bool((scores > 0).any()) for scores in np.round(concepts + stricter, 3)]
