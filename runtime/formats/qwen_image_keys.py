"""Names of layers of Qwen-Image's transformer."""

from collections.abc import Mapping

__all__ = ["unread_layers"]

_UNREAD = ("attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
"""Layers after whose last block nothing reads the tokens of the text."""


def unread_layers(config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the layers of a transformer that its output does not depend on, and which a graph lacks.

    Args:
        config: Its config.json.
    """
    count = config.get("num_layers", 60)
    return tuple(f"transformer_blocks.{count - 1}.{name}" for name in _UNREAD) if isinstance(count, int) else ()
