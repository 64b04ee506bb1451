"""The part of a pipeline that keeps the VAE's memory small: tiles and slices, both off by default."""

from diffoundry.runtime.pipelines.latents import LatentCodec

__all__ = ["Frugal"]


class Frugal:
    """Lets large or many images go through the VAE in parts. An image under way goes by what holds at its decoding.

    Attributes:
        codec: Images to latents and back.
    """

    codec: LatentCodec

    def enable_vae_tiling(self) -> None:
        """Take images that are larger than what the VAE was trained on in overlapping tiles of that size.

        Memory then grows with a tile and no longer with the image. The answer changes, for no tile sees the others,
        in the way it does in diffusers: `vae.enable_tiling`.

        Raises:
            InputError: The VAE's `sample_size` makes no tiles.
        """
        self.codec.tiles = self.codec.own_tiles()

    def disable_vae_tiling(self) -> None:
        """Take images whole again."""
        self.codec.tiles = None

    def enable_vae_slicing(self) -> None:
        """Take several images one by one. diffusers: `vae.enable_slicing`."""
        self.codec.slicing = True

    def disable_vae_slicing(self) -> None:
        """Take several images together again."""
        self.codec.slicing = False
