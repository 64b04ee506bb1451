"""The interfaces through which a pipeline drives networks, whatever their class."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.bundle.specs import TensorSpec

if TYPE_CHECKING:
    from diffoundry.runtime.models.autoencoder_kl import AutoencoderKL

__all__ = ["Denoiser", "Feeds", "FloatArray", "TextEncoder"]

FloatArray = npt.NDArray[np.float32]

Feeds = Mapping[str, FloatArray]
"""Name of an input of a network to its rows, float32 (B, ...), one row an image."""


class Denoiser(Protocol):
    """A network that predicts noise, the clean image or a velocity from noisy latents.

    Attributes:
        component: Name of the component.
        in_channels: Channels of its input; those beyond the latents' own take a mask or another image.
        out_channels: Channels of its output.
        sample_size: Height and width of the latents it was trained on; None where its config names none.
        patch_size: Latents to a side of a token; the latents' sides must be multiples of it. 1 without tokens.
        first_channels: Channels of its features at full resolution, which bound the memory of a call.
        embeds_guidance: True if the guidance scale is an input, so that one call a step is enough.
        token_limit: The only number of text tokens that the engine takes; None for any.
    """

    component: str
    in_channels: int
    out_channels: int
    sample_size: tuple[int, int] | None
    patch_size: int
    first_channels: int

    @property
    def embeds_guidance(self) -> bool:
        """See above."""

    @property
    def residual_inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs for the residuals of ControlNets; none where it takes none."""

    @property
    def token_limit(self) -> int | None:
        """See above."""

    def latent_shape(self, batch: int, height: int, width: int, vae: "AutoencoderKL") -> tuple[int, ...]:
        """Return the shape of the latents of images of `height` x `width` pixels."""

    def image_tokens(self, shape: tuple[int, ...]) -> int | None:
        """Return the number of tokens of latents of a shape, which shifts flow-matching schedules; None without."""

    def embed_guidance(self, scale: float) -> Feeds:
        """Return the guidance scale as inputs of one row; only where `embeds_guidance`."""

    def __call__(self, sample: FloatArray, timestep: float, conditioning: Feeds) -> FloatArray:
        """Predict.

        Args:
            sample: float32 (B, in_channels, ...), scaled by the scheduler.
            timestep: As the scheduler counts; the wrapper converts it.
            conditioning: Further inputs under the names of diffusers' `forward`.

        Returns:
            float32 (B, out_channels, ...).
        """


class TextEncoder(Protocol):
    """A network that reads prompts.

    Attributes:
        name: Name of the component.
        folder: Folder of its tokenizer, as the checkpoint names it.
        tokenizer: Turns texts into token ids.
    """

    name: str
    folder: str
    tokenizer: Any

    @property
    def length(self) -> int:
        """Largest number of tokens that it reads at once, start and end tokens included."""
