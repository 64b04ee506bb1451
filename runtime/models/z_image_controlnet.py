"""ZImageControlNetModel: a control image that guides the transformer of Z-Image, as residuals of its blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.formats.config_values import Config, integer, integers, refuse
from diffoundry.runtime.models.controlnet import ControlNetModel, block_residual_name
from diffoundry.runtime.models.protocols import Feeds, FloatArray
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.runtime.models.z_image_transformer_2d import (
    PENDING,
    call_time,
    pack_latents,
    position_feeds,
    read_layout,
)

__all__ = [
    "SHARED_LAYERS",
    "ZImageControlLayout",
    "ZImageControlNetModel",
    "read_control_layout",
    "residual_names",
    "split_residual",
]

SHARED_LAYERS: Mapping[str, tuple[str, ...]] = {
    "ZImageControlNetModel": ("t_embedder.", "all_x_embedder.", "cap_embedder.", "noise_refiner.", "context_refiner."),
}
"""Class of a ControlNet to the beginnings of the names of layers that it has of its transformer."""

_REFINERS = (None, "control_layers", "control_noise_refiner")


@dataclass(frozen=True, kw_only=True, slots=True)
class ZImageControlLayout:
    """The interface of the network, as its config describes it.

    Attributes:
        channels: Of its condition: latents of the control image; those of networks for inpainting continue with a mask
            and the latents of the kept part.
        width: Of its features.
        places: Numbers of the transformer's blocks after which its residuals are added.
        refiner_places: The same of the blocks that see the image alone, which it has of the transformer.
        refiner: Field `add_control_noise_refiner`.
    """

    channels: int
    width: int
    places: tuple[int, ...]
    refiner_places: tuple[int, ...]
    refiner: str | None


def read_control_layout(config: Config, subject: str) -> ZImageControlLayout:
    """Read config.json of a ControlNet, of which diffusers has no defaults for channels and places.

    Args:
        config: The config.
        subject: Name of the file in messages.

    Raises:
        ConfigError: A value is missing, has another type or is out of range.
    """
    places = integers(config, "control_layers_places", (), subject=subject, minimum=0)
    if places[0] != 0 or sorted(set(places)) != list(places):
        raise refuse(subject, "control_layers_places", list(places), "rising numbers that begin with 0")
    refiner = config.get("add_control_noise_refiner")
    if refiner not in _REFINERS:
        raise refuse(subject, "add_control_noise_refiner", refiner, "null, 'control_layers' or 'control_noise_refiner'")
    key = "control_refiner_layers_places"
    refined = () if refiner is None else integers(config, key, (), subject=subject, minimum=0)
    return ZImageControlLayout(
        channels=integer(config, "control_in_dim", 0, subject=subject),
        width=integer(config, "dim", 3840, subject=subject),
        places=places,
        refiner_places=refined,
        refiner=refiner,
    )


def residual_names(place: int) -> tuple[str, str, str]:
    """Return the names of a block's residuals: of the image's tokens, of their padding, and of the caption."""
    name = block_residual_name(place)
    return name, f"{name}_padding", f"{name}_caption"


def split_residual(
    residual: FloatArray, rows: int, columns: int, padding: FloatArray, seen: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Cut a residual of diffusers into those of the graph; `residual_names` has their names.

    Args:
        residual: float32 (B, tokens, D): tokens of the image, of its padding and of the caption, then zeros.
        rows: Of tokens of the image.
        columns: Of tokens of the image.
        padding: "padding_mask" of `position_feeds`, (31,).
        seen: "encoder_attention_mask" of `padded_captions`, (B, S).
    """
    count, pending = rows * columns, int(padding.sum())
    batch, width = len(residual), residual.shape[2]
    between = np.zeros((batch, PENDING, width), np.float32)
    between[:, :pending] = residual[:, count : count + pending]
    caption = np.zeros((batch, seen.shape[1], width), np.float32)
    for own, row, length in zip(caption, residual, seen.sum(axis=1).astype(int), strict=True):
        own[:length] = row[count + pending : count + pending + length]
    return residual[:, :count].reshape(batch, rows, columns, width), between, caption


class ZImageControlNetModel(ControlNetModel):
    """Runs one ControlNet. diffusers: `ZImageControlNetModel`.

    It sees the likeliest latents of its image, without a draw. Its residuals cover the caption too, so it runs for the
    negative prompts as well.
    """

    encodes_image: bool = True
    draws_image: ClassVar[bool] = False
    signed_pixels: ClassVar[bool] = True
    has_guess_mode: ClassVar[bool] = False
    scales_itself: ClassVar[bool] = True

    def __init__(self, session: EngineSession, component: str) -> None:
        """See `ControlNetModel`."""
        super().__init__(session, component)
        (transformer,) = session.with_role(DENOISER)
        self._layout = read_layout(session.bundle.config(transformer), f"{transformer}/config.json")
        own = read_control_layout(session.bundle.config(component), f"{component}/config.json")
        self._channels = own.channels
        self.takes_kept_part = own.channels > self._layout.channels

    def _offer(self, sample: FloatArray, timestep: float, conditioning: Feeds, image: FloatArray) -> Feeds:
        """See `ControlNetModel`."""
        tokens, seen = pack_latents(sample), conditioning["encoder_attention_mask"]
        rows, columns = tokens.shape[1:3]
        room = (0, 0), (0, self._channels - image.shape[1]), (0, 0), (0, 0)
        return {
            "hidden_states": tokens,
            "controlnet_cond": pack_latents(np.pad(image, room)),
            "timestep": call_time(timestep),
            **conditioning,
            **position_feeds(seen, rows, columns, self._layout.axes, self._layout.theta),
        }
