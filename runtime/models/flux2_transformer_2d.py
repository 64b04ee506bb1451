"""Flux2Transformer2DModel: the denoiser of FLUX.2."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.formats.config_values import Config, flag, integer, number, refuse
from diffoundry.runtime.models.flux_transformer_2d import PATCH, ReferenceTransformer, read_axes
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.reference_tokens import STATES, network_feeds, read_grids
from diffoundry.runtime.models.rotary import axis_positions, grid_positions, rotary_angles

__all__ = ["SIDE", "Flux2Layout", "Flux2Transformer2DModel", "read_layout"]

SIDE = 64
"""Tokens to a side of an image by default. diffusers: half of `default_sample_size` of `Flux2Pipeline`."""

_AXES = (32, 32, 32, 32)
_TEXT_AXIS = 3
_IMAGE_STEP = 10
"""Distance of other images on the first axis. diffusers: `Flux2Pipeline._prepare_image_ids`."""

_TRAINED = 1000.0
"""Timesteps of the training; the network counts from 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flux2Layout:
    """The interface of the network, as its config describes it.

    Attributes:
        in_channels: Of a token: those of 2 x 2 latents.
        channels: Of its features.
        width: Of a token of the text.
        axes: Width of the part of a head for each axis of the positions: image, row, column, and place in the text.
        theta: Base of the frequencies of the positions.
        embeds_guidance: True if the guidance scale is an input.
    """

    in_channels: int
    channels: int
    width: int
    axes: tuple[int, ...]
    theta: float
    embeds_guidance: bool


def read_layout(config: Config, subject: str) -> Flux2Layout:
    """Read config.json with the defaults of diffusers' `Flux2Transformer2DModel`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, is out of range, or does not fit the others.
    """
    into = integer(config, "in_channels", 128, subject=subject)
    out = integer(config, "out_channels", None, subject=subject) or into
    if into % PATCH**2:
        raise refuse(subject, "in_channels", into, f"a multiple of {PATCH**2}, the latents of a token")
    if out != into:
        raise refuse(subject, "out_channels", out, f"{into}, the in_channels")
    patch = integer(config, "patch_size", 1, subject=subject)
    if patch != 1:
        raise refuse(subject, "patch_size", patch, "1")
    axes = read_axes(config, _AXES, subject)
    return Flux2Layout(
        in_channels=into,
        channels=sum(axes) * integer(config, "num_attention_heads", 48, subject=subject),
        width=integer(config, "joint_attention_dim", 15360, subject=subject),
        axes=axes,
        theta=number(config, "rope_theta", 2000, subject=subject, minimum=1.0, maximum=1e9),
        embeds_guidance=flag(config, "guidance_embeds", default=True, subject=subject),
    )


class Flux2Transformer2DModel(ReferenceTransformer):
    """A `Denoiser` over tokens of 2 x 2 latents, (B, 4 C, rows, columns). diffusers: `Flux2Transformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D), and `reference_feeds` of other images. Angles of rotary
    positions are computed here.

    Attributes:
        layout: Its interface.
    """

    def __init__(self, session: EngineSession) -> None:
        """Read the config; the engine is opened when first needed.

        Raises:
            BundleError: The bundle has no denoiser, or no config of it.
            ConfigError: A value of the config has another type, or is out of range.
        """
        super().__init__(session)
        self.layout: Flux2Layout = read_layout(self._config, self._subject)
        self.in_channels = self.out_channels = self.layout.in_channels
        self.sample_size = SIDE, SIDE
        self.first_channels = self.layout.channels

    @property
    def embeds_guidance(self) -> bool:
        """See `Denoiser`."""
        inputs = self._session.inputs(self.component)
        return self.layout.embeds_guidance and any(spec.name == "guidance" for spec in inputs)

    def embed_guidance(self, scale: float) -> Feeds:
        """See `Denoiser`."""
        return {"guidance": np.array([scale], np.float32)}

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the network takes a thousandth of the timestep."""
        if STATES not in conditioning and self.reference_limit != 0:
            conditioning = {**conditioning, **self.reference_feeds((), len(sample))}
        tokens = sample.transpose(0, 2, 3, 1)
        cos, sin = self._angles(_grid(0, *tokens.shape[1:3]))
        length = conditioning["encoder_hidden_states"].shape[1]
        text_cos, text_sin = self._angles(axis_positions(length, _TEXT_AXIS, len(_AXES)))
        feeds = {
            "hidden_states": np.ascontiguousarray(tokens),
            "timestep": time_feed(timestep, lambda times: times / np.float32(_TRAINED)),
            "rotary_cos": cos,
            "rotary_sin": sin,
            "text_cos": text_cos,
            "text_sin": text_sin,
            **network_feeds(conditioning),
        }
        if STATES in feeds:
            cos, sin = _reference_angles(read_grids(conditioning), self.layout.axes, self.layout.theta)
            feeds |= {"reference_cos": cos, "reference_sin": sin}
        return np.ascontiguousarray(self._run(feeds, tokens.shape).transpose(0, 3, 1, 2))

    def _angles(self, places: npt.NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
        return rotary_angles(places, self.layout.axes, self.layout.theta)


def _grid(first: float, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Return positions (rows, columns, 4) of the tokens of an image."""
    places = grid_positions(first, rows, columns)
    return np.concatenate([places, np.zeros_like(places[..., :1])], axis=-1)


@lru_cache(maxsize=4)
def _reference_angles(
    grids: tuple[tuple[int, int], ...], axes: tuple[int, ...], theta: float
) -> tuple[FloatArray, FloatArray]:
    """Return cosines and sines (tokens, half a head) of other images, the same for every step."""
    places = [np.zeros((0, len(_AXES)))]
    places += [_grid(index * _IMAGE_STEP, *grid).reshape(-1, len(_AXES)) for index, grid in enumerate(grids, 1)]
    return rotary_angles(np.concatenate(places), axes, theta)
