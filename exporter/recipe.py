"""Turns what a user asked for into a recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from diffoundry.exporter.checkpoint import Checkpoint
from diffoundry.exporter.passes import OPSET
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.specs import PRECISIONS, DimSpec, Recipe

__all__ = ["ExportRequest", "make_recipe", "parse_dim", "tool_versions"]

_TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """What a user asked for.

    Attributes:
        target: Target name.
        precision: One of `PRECISIONS`.
        dims: "batch", "height", "width" (rows of one engine call, pixels, pixels) that were given; the others are free.
        overwrite: Whether an existing bundle may be replaced.
    """

    target: str
    precision: str = "fp32"
    dims: Mapping[str, DimSpec] = field(default_factory=dict)
    overwrite: bool = False


def make_recipe(checkpoint: Checkpoint, request: ExportRequest) -> Recipe:
    """The recipe, its dims completed with what the family's graphs can take.

    Raises:
        InputError: Unknown precision, or a size that the checkpoint's networks cannot take.
    """
    if request.precision not in PRECISIONS:
        raise InputError(f"precision: got {request.precision!r}, expected one of {', '.join(PRECISIONS)}")
    steps = checkpoint.dim_multiples
    dims = {}
    for name in ("batch", "height", "width"):
        asked, step = request.dims.get(name, DimSpec()), steps.get(name, 1)
        for value in (asked.min, asked.max):
            if name in request.dims and value is not None and value % step:
                raise InputError(f"{name}: got {value}, expected a multiple of {step} for this checkpoint")
        dims[name] = DimSpec(min=max(asked.min, step), max=asked.max, multiple_of=step)
    return Recipe(
        model=checkpoint.name,
        source=checkpoint.identity(),
        target=request.target,
        precision=request.precision,
        dims=dims,
        opset=OPSET,
    )


def parse_dim(name: str, text: str) -> DimSpec:
    """Read "512" (fixed) or "256..1024" (a range, both ends included).

    Raises:
        InputError: Anything else.
    """
    low, dots, high = text.partition("..")
    if not low.isdecimal() or (dots and not high.isdecimal()) or int(low) < 1:
        raise InputError(f"{name}: got {text!r}, expected a number such as 512 or a range such as 256..1024")
    bounds = int(low), int(high) if dots else int(low)
    if bounds[1] < bounds[0]:
        raise InputError(f"{name}: got the range {text!r}, expected the smaller end first")
    return DimSpec(min=bounds[0], max=bounds[1])


def tool_versions() -> dict[str, str]:
    """The versions of the libraries that trace and transform graphs."""
    return {name: version(name) for name in _TOOLS}
