"""The builder of MIL programs of coremltools, named `mb` as in its documentation."""

from typing import Any

from coremltools.converters.mil import Builder

__all__ = ["mb"]

mb: Any = Builder
"""Its operators are added at import, so no type checker knows them."""
