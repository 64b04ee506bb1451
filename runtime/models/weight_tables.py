"""Reads weights that the runtime uses itself: they lie in fp32 beside the graph of their component."""

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.formats.safetensors import Safetensors
from diffoundry.runtime.models.protocols import FloatArray

__all__ = ["TABLES", "read_table"]

TABLES = "tables.safetensors"
"""Name of the file in the component's folder."""


def read_table(bundle: Bundle, component: str, name: str, shape: tuple[int | None, ...]) -> FloatArray:
    """Read a weight.

    Args:
        bundle: The bundle.
        component: Name of the component.
        name: Name of the weight in the network.
        shape: Expected sizes; None takes any.

    Returns:
        float32 of this shape.

    Raises:
        BundleError: The bundle has no such weight, or one of another shape.
    """
    file = Safetensors(bundle.file(f"{component}/{TABLES}"))
    found = file.entries[name].shape if name in file else None
    if found is None or len(found) != len(shape) or any(b not in (None, a) for a, b in zip(found, shape, strict=True)):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise BundleError(
            f"bundle {bundle.root}: {component}/{TABLES}: got {name!r} of shape {found}, expected ({expected}); "
            f"export the bundle again"
        )
    return file.read(name)
