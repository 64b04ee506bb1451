"""Maps names of a transformer's layers in the original code to those of diffusers, by tables."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

__all__ = ["Blocks", "map_layers"]

Blocks = Mapping[str, tuple[str, Mapping[str, str]]]
"""Beginning of the names of a kind of blocks, up to their number, to its original form, and their layers to the
original ones; those of one original layer in the order of its rows."""


def map_layers(names: Collection[str], outside: Mapping[str, str], blocks: Blocks) -> dict[str, tuple[str, ...]]:
    """Map names of original layers to their layers of diffusers.

    Args:
        names: Layers of diffusers.
        outside: Layers outside the blocks to their original names.
        blocks: See `Blocks`.
    """
    known = set(names)
    found: dict[str, list[str]] = defaultdict(list)
    for name, original in outside.items():
        if name in known:
            found[original].append(name)
    kinds = re.compile(rf"({'|'.join(map(re.escape, blocks))})\.(\d+)\.")
    numbers = {(match[1], int(match[2])) for match in map(kinds.match, names) if match is not None}
    for kind, number in sorted(numbers):
        block, layers = blocks[kind]
        for inner, original in layers.items():
            name = f"{kind}.{number}.{inner}"
            if name in known:
                found[f"{block}.{number}.{original}"].append(name)
    return {original: tuple(layers) for original, layers in found.items()}
