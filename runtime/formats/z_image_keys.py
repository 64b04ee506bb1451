"""Names of the layers of Z-Image's transformer in the original code, and in files that follow it.

Tongyi Lab 2025, https://github.com/Tongyi-MAI/Z-Image. diffusers:
`loaders.single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers`, the other way round.
"""

import re
from collections import defaultdict
from collections.abc import Collection

from diffoundry.runtime.formats.mmdit_keys import OriginalLayer

__all__ = ["z_image_layers"]

_INNER = {"to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "out"}
"""Layers of an attention; those of one original layer in the order of its rows."""

_OUTSIDE = {"all_final_layer.2-1.": "final_layer.", "all_x_embedder.2-1": "x_embedder"}
"""Beginnings of the names of layers for tokens of 2 x 2 latents."""

_ATTENTION = re.compile(r"(.+\.attention\.)(to_q|to_k|to_v|to_out\.0)")


def z_image_layers(names: Collection[str]) -> dict[str, OriginalLayer]:
    """Map names of original layers to their layers of diffusers, where the two differ.

    Args:
        names: Layers of diffusers.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for ours, original in _OUTSIDE.items():
            if name.startswith(ours):
                found[original + name.removeprefix(ours)].append(name)
    blocks = {match[1] for match in map(_ATTENTION.fullmatch, names) if match is not None}
    for block in sorted(blocks):
        for inner, original in _INNER.items():
            if f"{block}{inner}" in names:
                found[f"{block}{original}"].append(f"{block}{inner}")
    return {original: OriginalLayer(tuple(layers)) for original, layers in found.items()}
