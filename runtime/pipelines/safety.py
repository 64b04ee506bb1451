"""Stable Diffusion's safety checker: which images are near to concepts that its makers would not show."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.feature_extractor import FeatureExtractor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["COMPONENT", "EXTRACTOR_FILE", "SafetyChecker", "verdicts"]

FloatArray = npt.NDArray[np.float32]

COMPONENT = "safety_checker"

EXTRACTOR_FILE = "feature_extractor/preprocessor_config.json"
"""How images are prepared for a component that looks at them."""

_STRICTER = 0.01
"""What a special concept adds to the score of every other one."""


class SafetyChecker:
    """Drives safety_checker of a bundle. diffusers: `StableDiffusionPipeline.run_safety_checker`."""

    def __init__(self, components: EngineSession) -> None:
        """Read how images are prepared; the engine is opened when first needed.

        Raises:
            BundleError: The bundle lacks the component or the feature extractor's config.
            ConfigError: The feature extractor is of another kind.
        """
        components.bundle.engines(COMPONENT)
        self.extractor = FeatureExtractor.from_config(components.bundle.read_json(EXTRACTOR_FILE))
        self._components = components

    def __call__(self, images: "Sequence[Image]") -> list[bool]:
        """Whether each image is flagged.

        Args:
            images: RGB, as they were generated.

        Raises:
            InputError: The feature extractor makes another size than the component takes.
            EngineError: The engine failed.
        """
        scores = self._components.run(COMPONENT, {"clip_input": self.extractor(images)})
        return verdicts(scores["special_scores"], scores["concept_scores"])


def verdicts(special: FloatArray, concepts: FloatArray) -> list[bool]:
    """Whether each image is flagged, from the scores of the component.

    diffusers: `StableDiffusionSafetyChecker.forward`, where a score counts when it is above 0 after it was rounded to
    three digits, and where every concept is judged more strictly once a special one counts.

    Args:
        special: float32 (B, 3).
        concepts: float32 (B, 17).
    """
    stricter = (np.round(special, 3) > 0).any(axis=1, keepdims=True) * np.float32(_STRICTER)
    return [bool((scores > 0).any()) for scores in np.round(concepts + stricter, 3)]
