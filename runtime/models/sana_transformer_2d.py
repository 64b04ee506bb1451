"""SanaTransformer2DModel: the denoiser of Sana and Sana-Sprint, and its ControlNet."""

from dataclasses import dataclass

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import MAX_SIDE, Config, flag, integer, number
from diffoundry.runtime.models.controlnet import ControlNetModel
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.pixart_transformer_2d import sine_table
from diffoundry.runtime.models.protocols import Feeds, FloatArray

__all__ = ["SanaControlNetModel", "SanaLayout", "SanaTransformer2DModel", "read_layout"]

_SIZES = (
    ("in_channels", 32), ("num_attention_heads", 70), ("attention_head_dim", 32), ("num_layers", 20),
    ("caption_channels", 2304),
)  # fmt: skip
"""Fields of a config, and diffusers' defaults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SanaLayout:
    """The interface of the network, as its config describes it.

    Attributes:
        in_channels: Of latents.
        out_channels: Of the prediction: those of latents, or twice as many with a variance.
        channels: Of its features.
        layers: Number of its blocks.
        width: Numbers of a token of the prompt.
        patch_size: Latents to a side of a patch.
        sample_size: Latents to a side of the images that it was trained on.
        scale: Divisor of positions; None for a network without positions.
        embeds_guidance: True if it takes the guidance scale.
        guidance_scale: Factor of the guidance scale.
        timestep_scale: Factor of timesteps.
    """

    in_channels: int
    out_channels: int
    channels: int
    layers: int
    width: int
    patch_size: int
    sample_size: int
    scale: float | None
    embeds_guidance: bool
    guidance_scale: float
    timestep_scale: float

    def positions(self, height: int, width: int) -> Feeds:
        """Return the tables of positions for latents of this size; none for a network without positions."""
        if self.scale is None:
            return {}
        base, half = self.sample_size // self.patch_size, self.channels // 2
        rows, columns = (sine_table(side // self.patch_size, base, self.scale, half) for side in (height, width))
        return {"position_rows": rows, "position_columns": columns}


def read_layout(config: Config, subject: str) -> SanaLayout:
    """Read config.json with the defaults of diffusers' `SanaTransformer2DModel`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, or is out of range.
    """
    channels, heads, head, layers, width = (integer(config, name, own, subject=subject) for name, own in _SIZES)
    patch, side = (
        integer(config, name, own, subject=subject, maximum=MAX_SIDE)
        for name, own in (("patch_size", 1), ("sample_size", 32))
    )
    given = integer({"out_channels": 32, **config}, "out_channels", None, subject=subject)
    scale = number(config, "interpolation_scale", None, subject=subject, minimum=1e-9, maximum=1e9)
    return SanaLayout(
        in_channels=channels,
        out_channels=channels if given is None else given,
        channels=heads * head,
        layers=layers,
        width=width,
        patch_size=patch,
        sample_size=side,
        scale=scale,
        embeds_guidance=flag(config, "guidance_embeds", default=False, subject=subject),
        guidance_scale=number(config, "guidance_embeds_scale", 0.1, subject=subject, minimum=0.0, maximum=1e9),
        timestep_scale=number(config, "timestep_scale", 1.0, subject=subject, minimum=0.0, maximum=1e9),
    )


class SanaTransformer2DModel(PatchTransformer):
    """diffusers: `SanaTransformer2DModel`. Xie et al. 2024, https://arxiv.org/abs/2410.10629.

    Its conditioning: "encoder_hidden_states" (B, tokens, D), "encoder_attention_mask" (B, tokens), 1 for a token and 0
    for padding, "guidance" (1,) where it embeds the guidance scale, and the residuals of a ControlNet where it takes
    any. "identity_layers" (B, layers), where it takes them, are none by default.

    Attributes:
        layout: Its interface.
        width: D.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        self.layout = layout = read_layout(self._config, self._subject)
        self.in_channels, self.out_channels = layout.in_channels, layout.out_channels
        self.patch_size, self.first_channels = layout.patch_size, layout.channels
        self.sample_size = (layout.sample_size, layout.sample_size)
        self.width = layout.width

    @property
    def embeds_guidance(self) -> bool:
        """See `Denoiser`."""
        return self.layout.embeds_guidance

    def embed_guidance(self, scale: float) -> Feeds:
        """See `Denoiser`: the scale times a factor of the config."""
        return {"guidance": np.array([scale], np.float32) * np.float32(self.layout.guidance_scale)}

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the timestep is passed as it is."""
        names = {spec.name for spec in self._session.inputs(self.component)}
        none = np.zeros((len(sample), self.layout.layers), np.float32)
        identity = {IDENTITY_LAYERS: none} if IDENTITY_LAYERS in names else {}
        return super().__call__(
            sample, timestep, {**self.layout.positions(*sample.shape[2:]), **identity, **conditioning}
        )


class SanaControlNetModel(ControlNetModel):
    """Runs one ControlNet. diffusers: `SanaControlNetModel`.

    Attributes:
        layout: Its interface.
    """

    encodes_image = True
    has_guess_mode = False

    def __init__(self, session: EngineSession, component: str) -> None:
        """See `ControlNetModel`."""
        ControlNetModel.__init__(self, session, component)
        self.layout = read_layout(session.bundle.config(component), f"{component}/config.json")

    def _offer(self, sample: FloatArray, timestep: float, conditioning: Feeds, image: FloatArray) -> Feeds:
        """See `ControlNetModel`."""
        positions = self.layout.positions(*sample.shape[2:])
        return {**super()._offer(sample, timestep, conditioning, image), "hidden_states": sample, **positions}
