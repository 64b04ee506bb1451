"""IFSafetyChecker: flags images with unsafe content, and images with a watermark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.images.feature_extractor import FeatureExtractor
from diffoundry.runtime.models.clip_vision import EXTRACTOR_FILE
from diffoundry.runtime.models.roles import SAFETY_CHECKER

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IFSafetyChecker", "IFVerdict"]

_THRESHOLD = 0.5
"""Of both scores, which are no probabilities. diffusers: `p_threshold` and `w_threshold`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IFVerdict:
    """The verdict on some images.

    Attributes:
        nsfw: For each image whether it was flagged for unsafe content.
        watermark: For each image whether it was flagged for a watermark.
    """

    nsfw: list[bool]
    watermark: list[bool]

    @property
    def flags(self) -> list[bool]:
        """For each image whether it was flagged at all."""
        return [one or other for one, other in zip(self.nsfw, self.watermark, strict=True)]


class IFSafetyChecker:
    """Runs the safety checker of a DeepFloyd IF bundle. diffusers: `IFPipeline.run_safety_checker`.

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

    def __call__(self, images: "Sequence[Image]") -> IFVerdict:
        """Judge images.

        Args:
            images: RGB, as they were generated.

        Raises:
            InputError: The feature extractor makes another size than the component takes.
            EngineError: The engine failed.
        """
        outputs = Outputs(self._session.run(self.component, {"clip_input": self.extractor(images)}), self.component)
        nsfw, watermark = (outputs.take(f"{name}_scores", (len(images), 1)) for name in ("nsfw", "watermark"))
        return IFVerdict(nsfw=(nsfw[:, 0] > _THRESHOLD).tolist(), watermark=(watermark[:, 0] > _THRESHOLD).tolist())
