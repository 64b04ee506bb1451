"""Names and shapes in the messages of a chain."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffoundry.runtime.pipelines.base import PipelineBase

__all__ = ["PRIOR", "dimension", "from_start", "named", "with_prefix", "words"]

PRIOR = "prior_"
"""Prefix of the arguments of a prior, as diffusers' combined pipelines name them."""


def with_prefix(message: str, given: Iterable[str]) -> str:
    """Return a message of a prior with the prefix of those arguments that were passed with it."""
    for name in given:
        stem = name.removeprefix(PRIOR)
        message = re.sub(rf"(?<!\w){stem}(?!\w)", name, message) if stem != name else message
    return message


def from_start(message: str, starts: Mapping[str, str | None], given: Mapping[str, Any]) -> str:
    """Return a message of the last pipeline with the chain's names of the arguments that start it from an image."""
    for name, own in starts.items():
        if own not in (None, name) and given.get(str(own)) is None:
            message = re.sub(rf"(?<!\w){own}(?!\w)", name, message)
    return message


def named(pipeline: PipelineBase) -> str:
    """Return the name of a pipeline's folder and of its class in diffusers."""
    return f"{pipeline.session.bundle.root.name} ({pipeline.session.bundle.pipeline_class})"


def words(shape: Sequence[int | str]) -> str:
    """Return a shape as it is written in messages."""
    return f"({', '.join(map(str, shape))})"


def dimension(dim: int | str, sizes: Mapping[str, Any]) -> int:
    """Return the size of a dimension such as "images" or "height/8"."""
    if isinstance(dim, int):
        return dim
    symbol, _, divisor = dim.partition("/")
    return int(sizes[symbol]) // int(divisor or 1)
