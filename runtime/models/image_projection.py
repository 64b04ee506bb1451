"""ImageProjection: an encoded image to the tokens of an image prompt; and the names of an IP-Adapter's inputs.

Ye et al. 2023, section 3.2, https://arxiv.org/abs/2308.06721.
"""

from typing import Any

from diffoundry.runtime.engines.outputs import Outputs
from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import integer, refuse
from diffoundry.runtime.models.protocols import FloatArray

__all__ = [
    "PROMPT_TOKENS",
    "ImageProjection",
    "embeds_name",
    "ip_adapter_name",
    "is_image_prompt_input",
    "is_image_prompt_scale",
    "is_ip_adapter",
    "level_of_mask",
    "mask_name",
    "scale_name",
]

PROMPT_TOKENS = "image_prompt_embeds"
"""Output of the projection."""

_COMPONENT = "ip_adapter"
_EMBEDS, _SCALE, _MASK = f"{PROMPT_TOKENS}_", "image_prompt_scale_", "image_prompt_mask_"


class ImageProjection:
    """Runs the projection of one IP-Adapter. diffusers: `ImageProjection`, `IPAdapterPlusImageProjection`.

    Attributes:
        component: Name of the component.
        pooled: True if it takes one projected vector an image; otherwise the encoder's last hidden states but one.
        width: Width of what it takes.
        layers: Names of the denoiser's cross attentions, in the order of the scales.
    """

    def __init__(self, session: EngineSession, component: str) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no config of it.
            ConfigError: A field of the config is damaged.
        """
        self.component = component
        config, subject = session.bundle.config(component), f"{component}/config.json"
        self.pooled = config.get("_class_name") == "ImageProjection"
        self.width = integer(config, "image_embed_dim", None, subject=subject)
        layers: Any = config.get("layers")
        if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
            raise refuse(subject, "layers", layers, "a list of names")
        self.layers = tuple(layers)
        self._session = session

    def __call__(self, embeds: FloatArray) -> FloatArray:
        """Return tokens (B, T, D).

        Args:
            embeds: float32 (B, E) if `pooled`, otherwise (B, tokens, E).
        """
        (taken,) = self._session.inputs(self.component)
        outputs = Outputs(self._session.run(self.component, {taken.name: embeds}), self.component)
        return outputs.take(PROMPT_TOKENS, (len(embeds), None, None))


def ip_adapter_name(index: int) -> str:
    """Return the component of the IP-Adapter of this number: "ip_adapter", "ip_adapter_1" ..."""
    return f"{_COMPONENT}_{index}" if index else _COMPONENT


def is_ip_adapter(name: str) -> bool:
    """Return whether a component is an IP-Adapter's projection."""
    return name == _COMPONENT or name.startswith(f"{_COMPONENT}_")


def embeds_name(index: int) -> str:
    """Return the denoiser's input for the tokens of an IP-Adapter: (batch, prompts, tokens, width)."""
    return f"{_EMBEDS}{index}"


def scale_name(index: int) -> str:
    """Return the denoiser's input for the scales of an IP-Adapter: (batch, layers, prompts)."""
    return f"{_SCALE}{index}"


def mask_name(index: int, level: int) -> str:
    """Return the denoiser's input for the masks of an IP-Adapter at one level: (batch, prompts, height, width)."""
    return f"{_MASK}{index}_{level}"


def level_of_mask(name: str) -> tuple[int, int] | None:
    """Return the number of the IP-Adapter and the level of an input for masks; None for other inputs."""
    if not name.startswith(_MASK):
        return None
    index, _, level = name.removeprefix(_MASK).partition("_")
    return int(index), int(level)


def is_image_prompt_scale(name: str) -> bool:
    """Return whether an input of a denoiser is the scales of an IP-Adapter."""
    return name.startswith(_SCALE)


def is_image_prompt_input(name: str) -> bool:
    """Return whether an input of a denoiser belongs to an IP-Adapter; scales of 0 change nothing."""
    return name.startswith((_EMBEDS, _SCALE, _MASK))
