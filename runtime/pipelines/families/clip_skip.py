"""`clip_skip`: hidden states of CLIP text encoders without the last layers."""

from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.clip_text import EncodedPrompts
from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["check_clip_skip", "skip_layers"]


def skip_layers(encoded: EncodedPrompts, clip_skip: int | None) -> FloatArray:
    """Return the normalized hidden states without the last `clip_skip` layers, (B * chunks, 77, D).

    Raises:
        InputError: Too many layers, or a bundle whose text encoder does not give them.
    """
    states = encoded.outputs.get("normalized_hidden_states")
    if states is None:
        raise InputError(
            "clip_skip: the text encoder of this bundle gives its last hidden state alone; export it again with this "
            "version of diffoundry, or leave clip_skip out"
        )
    layers = states.shape[1]
    check_clip_skip(clip_skip, layers)
    return states[:, layers - (clip_skip or 0)]


def check_clip_skip(clip_skip: object, most: int) -> None:
    """Refuse a number of layers to skip that is no whole number from 0 to `most`.

    Raises:
        InputError: As said.
    """
    if not (isinstance(clip_skip, int) and 0 <= clip_skip <= most):
        raise InputError(f"clip_skip: got {clip_skip!r}, expected a whole number from 0 to {most}")
