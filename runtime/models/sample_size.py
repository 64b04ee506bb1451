"""Reads the size and the channels of the images that a denoiser was trained on."""

from diffoundry.runtime.formats.config_values import MAX_SIDE, Config, integer, integers, refuse

__all__ = ["HINT_CHANNELS", "HINT_FACTOR", "pixel_channels", "read_sample_size"]

HINT_CHANNELS = 4
"""Channels that a hint has when it is appended to the sample. diffusers: `ImageHintTimeEmbedding`."""

HINT_FACTOR = 8
"""Pixels of a hint to a side of a latent."""

_RGB = 3


def pixel_channels(in_channels: int, out_channels: int) -> int:
    """Return the channels of the pixels that a network denoises: three, or one of grey images.

    A network that also reads another image has more channels in, and one that predicts a variance has more out.
    """
    return min(in_channels, out_channels, _RGB)


def read_sample_size(config: Config, default: int | None, subject: str) -> tuple[int, int] | None:
    """Read `sample_size`: one number, height and width, or null.

    Args:
        config: Of the denoiser.
        default: Value of a missing field.
        subject: Name of the file in messages.

    Raises:
        ConfigError: It is something else.
    """
    given = config.get("sample_size", default)
    if isinstance(given, list | tuple):
        sides = integers(config, "sample_size", (), subject=subject, maximum=MAX_SIDE)
        if len(sides) != 2:
            raise refuse(subject, "sample_size", given, "a whole number, two of them (height and width), or null")
        return sides[0], sides[1]
    if given is None:
        return None
    side = integer({"sample_size": given}, "sample_size", 0, subject=subject, maximum=MAX_SIDE)
    return side, side
