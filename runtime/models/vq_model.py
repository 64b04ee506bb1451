"""VQModel and its spatially normalized form, MoVQ: latents are rounded to the vectors of a codebook."""

from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from diffoundry.runtime.engines.session import EngineSession
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.config_values import flag, integer
from diffoundry.runtime.models.deterministic_vae import DeterministicVae
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.roles import VAE_DECODER
from diffoundry.runtime.models.vae_tiling import Tiles
from diffoundry.runtime.models.weight_tables import read_table

__all__ = ["CODEBOOK", "CodeArray", "VQModel"]

CODEBOOK = "quantize.embedding.weight"
"""Name of the codebook among the weights of diffusers' `VQModel`."""

CodeArray = npt.NDArray[np.int64]

_MOST_DISTANCES = 2**21
"""Most distances that are in memory at once, 16 MiB of them."""


class VQModel(DeterministicVae):
    """Runs both halves, and quantizes between them. Latents (B, latent_channels, h, w) are those before.

    van den Oord et al. 2017, https://arxiv.org/abs/1711.00937; MoVQ: Zheng et al. 2022, https://arxiv.org/abs/2209.09002.
    diffusers: `VQModel` and `VectorQuantizer`. The codebook is fp32 whatever the precision of the engines, and
    distances are computed in float64, so that rounding chooses no code.

    Attributes:
        codes: Number of vectors in the codebook.
        looks_up: True if unquantized latents are codes; diffusers: `lookup_from_codebook`.
    """

    default_channels: ClassVar[int] = 3

    def __init__(self, session: EngineSession, *, normalize_latents: bool = False) -> None:
        """See `AutoencoderKL`."""
        super().__init__(session, normalize_latents=normalize_latents)
        subject = f"{session.bundle.component(VAE_DECODER)}/config.json"
        width = integer(self._config, "vq_embed_dim", None, subject=subject)
        self.latent_channels = self.latent_channels if width is None else width
        self.codes = integer(self._config, "num_vq_embeddings", 256, subject=subject)
        self.looks_up = flag(self._config, "lookup_from_codebook", default=False, subject=subject)

    @cached_property
    def codebook(self) -> FloatArray:
        """The vectors, float32 (codes, latent_channels).

        Raises:
            BundleError: The bundle has none, or one of another shape.
        """
        bundle = self._session.bundle
        return read_table(bundle, bundle.component(VAE_DECODER), CODEBOOK, (self.codes, self.latent_channels))

    def quantize(self, latents: FloatArray) -> CodeArray:
        """Return the codes (B, h, w) of the vectors that are nearest to latents; of equally near ones the first."""
        book = self.codebook.astype(np.float64)
        lengths = np.square(book).sum(axis=1)
        rows = np.moveaxis(latents, 1, -1).reshape(-1, self.latent_channels).astype(np.float64)
        parts = np.split(rows, range(step := max(1, _MOST_DISTANCES // self.codes), len(rows), step))
        # |z - e|^2 without |z|^2, which is the same for every vector e
        nearest = [np.argmin(lengths - 2 * (part @ book.T), axis=1) for part in parts]
        batch, _, height, width = latents.shape
        return np.concatenate(nearest).reshape(batch, height, width)

    def look_up(self, codes: CodeArray) -> FloatArray:
        """Return the vectors (B, latent_channels, h, w) of codes (B, h, w). diffusers: `get_codebook_entry`."""
        return np.ascontiguousarray(np.moveaxis(self.codebook[codes], -1, 1))

    def decode(self, latents: FloatArray, *, quantize: bool = True) -> FloatArray:
        """Return the images (B, 3, H, W), about -1 to 1, of latents in the VAE's own scale.

        Args:
            latents: (B, latent_channels, h, w).
            quantize: False decodes them as they are, and codes (B, h, w) where `looks_up`. diffusers:
                `force_not_quantize`.
        """
        if quantize:
            latents = latents + (self.look_up(self.quantize(latents)) - latents)  # rounded as diffusers rounds
        elif self.looks_up:
            latents = self.look_up(latents.astype(np.int64))
        return super().decode(latents)

    def own_tiles(self, size: int | None = None, overlap: float | None = None) -> Tiles:  # noqa: ARG002  # as others
        """See `VaeTilingMixin`.

        Raises:
            InputError: Always. diffusers has no tiles for this class.
        """
        raise InputError(
            "VAE tiling: got a VQModel, expected an AutoencoderKL or AutoencoderTiny; leave VAE tiling off"
        )
