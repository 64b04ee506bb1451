"""coremltools' builder of MIL programs under the name that its documentation gives it."""

from typing import Any

from coremltools.converters.mil import Builder

__all__ = ["mb"]

mb: Any = Builder
"""Its operators are added at import, so no type checker knows them."""
