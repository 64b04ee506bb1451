"""T2IAdapter: a control image to features that the denoiser adds in its first half; it runs once an image.

Mou et al. 2023, section 3.2, https://arxiv.org/abs/2302.08453.
"""

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer
from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["T2IAdapter", "feature_name", "is_feature", "is_t2i_adapter", "t2i_adapter_name"]

_FEATURE = "down_intrablock_additional_residual_"
_COMPONENT = "adapter"

_FACTOR = 8
"""Default of diffusers for `downscale_factor`."""


class T2IAdapter:
    """Runs one T2I-Adapter. diffusers: `T2IAdapter`.

    Attributes:
        component: Name of the component.
        channels: Channels of its image: 3 for RGB, 1 for grey.
        factor: Divisor of the image's sides, in pixels.
    """

    def __init__(self, session: EngineSession, component: str) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no config of it.
            ConfigError: A number of the config is damaged.
        """
        self.component = component
        config, subject = session.bundle.config(component), f"{component}/config.json"
        self.channels = integer(config, "in_channels", 3, subject=subject)
        self.factor = integer(config, "downscale_factor", _FACTOR, subject=subject)
        self._session = session

    def __call__(self, image: FloatArray) -> dict[str, FloatArray]:
        """Return the features by the name of the denoiser's input.

        Args:
            image: float32 (B, C, H, W), as the adapter was trained; as a rule 0 to 1.
        """
        (taken,) = self._session.inputs(self.component)
        return dict(self._session.run(self.component, {taken.name: image}))


def t2i_adapter_name(index: int) -> str:
    """Return the folder of the adapter of this number: "adapter", "adapter_1" ...

    diffusers: `MultiAdapter.save_pretrained`.
    """
    return f"{_COMPONENT}_{index}" if index else _COMPONENT


def is_t2i_adapter(name: str) -> bool:
    """Return whether a folder of a checkpoint holds a T2I-Adapter."""
    return name == _COMPONENT or name.startswith(f"{_COMPONENT}_")


def feature_name(index: int) -> str:
    """Return the denoiser's input for the feature of this number, from 0 in the order of its blocks."""
    return f"{_FEATURE}{index}"


def is_feature(name: str) -> bool:
    """Return whether an input of a denoiser is a feature of T2I-Adapters; zeros there change nothing."""
    return name.startswith(_FEATURE)
