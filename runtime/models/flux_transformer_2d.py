"""FluxTransformer2DModel: the denoiser of FLUX.1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.engines.timesteps import time_feed
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import Config, flag, integer, integers, refuse
from diffoundry.runtime.models.denoiser import PatchTransformer
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.reference_tokens import STATES, join_references
from diffoundry.runtime.models.rotary import grid_positions, rotary_angles

__all__ = [
    "PATCH",
    "REFERENCE",
    "SIDE",
    "FluxLayout",
    "FluxTransformer2DModel",
    "ReferenceTransformer",
    "pack_latents",
    "read_axes",
    "read_layout",
    "token_feeds",
    "unpack_latents",
]

PATCH = 2
"""Latents to a side of a token. diffusers: `FluxPipeline._pack_latents`."""

SIDE = 128
"""Latents to a side of an image by default. diffusers: `default_sample_size` of `FluxPipeline`."""

REFERENCE = "reference_latents"
"""Name in the conditioning for latents of another image."""

_AXES = (16, 56, 56)
_TRAINED = 1000.0
"""Timesteps of the training; the network counts from 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FluxLayout:
    """The interface of the network, as its config describes it.

    Attributes:
        in_channels: Of a token: those of 2 x 2 latents, and of what is joined to them.
        out_channels: Of a predicted token.
        channels: Of its features.
        width: Of a token of T5.
        pooled_width: Of the pooled prompt.
        axes: Width of the part of a head for each axis of the positions: image, row and column.
        embeds_guidance: True if the guidance scale is an input.
    """

    in_channels: int
    out_channels: int
    channels: int
    width: int
    pooled_width: int
    axes: tuple[int, ...]
    embeds_guidance: bool


def read_layout(config: Config, subject: str) -> FluxLayout:
    """Read config.json with the defaults of diffusers' `FluxTransformer2DModel`.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value has another type, is out of range, or does not fit the others.
    """
    token = PATCH * PATCH
    into = integer(config, "in_channels", 64, subject=subject)
    out = integer(config, "out_channels", None, subject=subject) or into
    for name, channels in (("in_channels", into), ("out_channels", out)):
        if channels % token:
            raise refuse(subject, name, channels, f"a multiple of {token}, the latents of a token")
    patch = integer(config, "patch_size", 1, subject=subject)
    if patch != 1:
        raise refuse(subject, "patch_size", patch, "1")
    axes = read_axes(config, _AXES, subject)
    return FluxLayout(
        in_channels=into,
        out_channels=out,
        channels=sum(axes) * integer(config, "num_attention_heads", 24, subject=subject),
        width=integer(config, "joint_attention_dim", 4096, subject=subject),
        pooled_width=integer(config, "pooled_projection_dim", 768, subject=subject),
        axes=axes,
        embeds_guidance=flag(config, "guidance_embeds", default=False, subject=subject),
    )


def read_axes(config: Config, default: tuple[int, ...], subject: str) -> tuple[int, ...]:
    """Read the width of the part of a head for each axis of the positions.

    Args:
        config: The config.
        default: Of diffusers for `axes_dims_rope`.
        subject: Name of the file in messages.

    Raises:
        ConfigError: They are not even, or do not add up to `attention_head_dim`.
    """
    head = integer(config, "attention_head_dim", 128, subject=subject)
    axes = integers(config, "axes_dims_rope", default, subject=subject)
    if len(axes) != len(default) or sum(axes) != head or any(width % 2 for width in axes):
        count = "three" if len(default) == 3 else "four"
        raise refuse(subject, "axes_dims_rope", list(axes), f"{count} even numbers that add up to {head}")
    return axes


def pack_latents(latents: FloatArray) -> FloatArray:
    """Join 2 x 2 latents to a token: (B, C, h, w) to (B, h / 2, w / 2, 4 C). diffusers: `_pack_latents`."""
    batch, channels, height, width = latents.shape
    cut = latents.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(batch, height // PATCH, width // PATCH, channels * PATCH**2)


def unpack_latents(tokens: FloatArray) -> FloatArray:
    """Revert `pack_latents`: (B, rows, columns, 4 C) to (B, C, 2 rows, 2 columns)."""
    batch, rows, columns, _ = tokens.shape
    cut = tokens.reshape(batch, rows, columns, -1, PATCH, PATCH).transpose(0, 3, 1, 4, 2, 5)
    return cut.reshape(batch, -1, rows * PATCH, columns * PATCH)


def token_feeds(sample: FloatArray, timestep: float, axes: tuple[int, ...]) -> tuple[FloatArray, Feeds]:
    """Return the tokens of latents (B, rows, columns, 4 C), and the inputs of a network for them.

    Args:
        sample: float32 (B, C, h, w).
        timestep: As the scheduler counts; the network takes a thousandth of it.
        axes: As `FluxLayout.axes`.
    """
    tokens = pack_latents(sample)
    cos, sin = rotary_angles(grid_positions(0, *tokens.shape[1:3]), axes)
    time = time_feed(timestep, lambda times: times / np.float32(_TRAINED))
    return tokens, {"hidden_states": tokens, "timestep": time, "rotary_cos": cos, "rotary_sin": sin}


class ReferenceTransformer(PatchTransformer):
    """A transformer over tokens of 2 x 2 latents that may also see tokens of other images.

    Attributes:
        layout: Its interface, with `in_channels` of a token.
    """

    layout: Any

    def _set_packed(self, in_channels: int, out_channels: int, width: int) -> None:
        """Set the sizes of a network that takes and returns tokens of so many channels, and computes with `width`."""
        self.in_channels, self.out_channels = in_channels // PATCH**2, out_channels // PATCH**2
        self.patch_size, self.sample_size = PATCH, (SIDE, SIDE)
        self.first_channels = width

    def reference_feeds(self, images: Sequence[FloatArray], batch: int, copies: int = 1) -> dict[str, FloatArray]:
        """Return the conditioning for other images, which is the same in every step of a call.

        Args:
            images: Of each what `_reference_tokens` takes, (1 or B, ...).
            batch: B, images of a call.
            copies: As `Guidance.copies`.

        Raises:
            InputError: The engine takes another number of tokens.
        """
        tokens = [self._reference_tokens(image) for image in images]
        feeds = join_references(tokens, batch, copies, self.layout.in_channels)
        self.check_reference(feeds[STATES].shape[1])
        return feeds

    def _reference_tokens(self, image: FloatArray) -> FloatArray:
        """Return the tokens (B, rows, columns, C) of an image (B, C, rows, columns)."""
        return image.transpose(0, 2, 3, 1)

    @property
    def reference_limit(self) -> int | None:
        """The only number of other images' tokens that the engine takes; None for any, 0 without the inputs."""
        shapes = {spec.name: spec.shape for spec in self._session.inputs(self.component)}
        tokens = shapes.get("reference_cos", (0,))[0]
        return tokens if isinstance(tokens, int) else None

    def check_reference(self, tokens: int) -> None:
        """Refuse a number of other images' tokens that the engine does not take.

        Raises:
            InputError: It was made for another number.
        """
        limit = self.reference_limit
        if limit == 0 and tokens:
            raise InputError(
                f"image: the engine of {self.component!r} was made for prompts alone; leave it out, or use an engine "
                f"for onnxruntime or openvino"
            )
        if limit is not None and tokens != limit:
            raise InputError(
                f"image: got {tokens} tokens of 2 x 2 latents, expected {limit}: the engine of {self.component!r} was "
                f"made for no other number; use an engine for onnxruntime or openvino"
            )


class FluxTransformer2DModel(ReferenceTransformer):
    """A `Denoiser` over latents (B, C, h, w), packed here to tokens of 2 x 2. diffusers: `FluxTransformer2DModel`.

    Its conditioning: "encoder_hidden_states" (B, tokens, D) and "pooled_projections" (B, P), and of a network that sees
    another image its latents as `REFERENCE` (B, C, h', w'). Angles of rotary positions are computed here.

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
        self.layout: FluxLayout = read_layout(self._config, self._subject)
        self._set_packed(self.layout.in_channels, self.layout.out_channels, self.layout.channels)

    @property
    def embeds_guidance(self) -> bool:
        """See `Denoiser`."""
        return self.layout.embeds_guidance

    def embed_guidance(self, scale: float) -> Feeds:
        """See `Denoiser`."""
        return {"guidance": np.multiply(scale, np.ones(1)).astype(np.float32)}

    def _reference(self, latents: FloatArray | None, batch: int) -> dict[str, FloatArray]:
        """Return the inputs for another image: its tokens, at the same places on another first axis.

        Raises:
            InputError: The engine takes another number of tokens.
        """
        empty = np.zeros((batch, self.layout.in_channels // PATCH**2, 0, 0), np.float32)
        tokens = pack_latents(empty if latents is None else latents)
        rows, columns = tokens.shape[1:3]
        self.check_reference(rows * columns)
        cos, sin = rotary_angles(grid_positions(1, rows, columns), self.layout.axes)
        return {
            "reference_hidden_states": tokens.reshape(batch, rows * columns, tokens.shape[-1]),
            "reference_cos": cos.reshape(rows * columns, cos.shape[-1]),
            "reference_sin": sin.reshape(rows * columns, sin.shape[-1]),
        }

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """See `Denoiser`; the network takes a thousandth of the timestep."""
        tokens, places = token_feeds(sample, timestep, self.layout.axes)
        feeds = {**places, **{name: values for name, values in conditioning.items() if name != REFERENCE}}
        if self.reference_limit != 0:
            feeds |= self._reference(conditioning.get(REFERENCE), len(sample))
        return unpack_latents(self._run(feeds, (*tokens.shape[:3], self.layout.out_channels)))
