"""Turns a user's request into a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from diffoundry.calibration.quality import Budget
from diffoundry.exporter.calibrate.request import QuantizationRequest
from diffoundry.exporter.checkpoints.checkpoint import SEED, Checkpoint
from diffoundry.exporter.passes import OPSET
from diffoundry.runtime.bundle.specs import DimSpec, Recipe, Variant
from diffoundry.runtime.engines.plugins import find_plugin
from diffoundry.runtime.errors import InputError

__all__ = [
    "ExportRequest",
    "check_variants",
    "make_recipe",
    "parse_buckets",
    "parse_dim",
    "quantization_for",
    "tool_versions",
]

_TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """Request of an export.

    Attributes:
        variants: Sets of engines in the user's order of preference: the first that can run is used.
        dims: "batch", "height", "width" (rows of one engine call, pixels, pixels) to their sizes; others are free.
        buckets: (height, width) in pixels of the only sizes that engines are made for; empty for what dims say.
        quantization: Budget and prompts of calibration, where a precision needs it.
        overwrite: True to replace an existing bundle.
    """

    variants: tuple[Variant, ...]
    dims: Mapping[str, DimSpec] = field(default_factory=dict)
    buckets: tuple[tuple[int, int], ...] = ()
    quantization: QuantizationRequest = field(default_factory=QuantizationRequest)
    overwrite: bool = False


def make_recipe(checkpoint: Checkpoint, request: ExportRequest) -> Recipe:
    """The recipe, its dims completed with what the family's graphs can take.

    Raises:
        InputError: A precision that its target does not do, or a size that the checkpoint's networks cannot take.
    """
    check_variants(request.variants)
    known = checkpoint.dims
    asked = {**request.dims, **_hull(request.buckets)}
    dims = {}
    for name in ("batch", "height", "width"):
        dim, own = asked.get(name, DimSpec()), known.get(name, DimSpec())
        for value in (dim.min, dim.max):
            if name in asked and value is not None:
                _check_size(name, value, own)
        largest = own.max if dim.max is None else dim.max
        dims[name] = DimSpec(min=max(dim.min, own.multiple_of), max=largest, multiple_of=own.multiple_of)
    return Recipe(
        model=checkpoint.name,
        source=checkpoint.identity(),
        variants=request.variants,
        dims=dims,
        buckets=request.buckets,
        opset=OPSET,
        loras=checkpoint.loras,
        controlnets=checkpoint.controlnets,
        without=checkpoint.without,
        vae=checkpoint.vae,
    )


def _check_size(name: str, value: int, own: DimSpec) -> None:
    if value % own.multiple_of:
        raise InputError(f"--{name}: got {value}, expected a multiple of {own.multiple_of} for this checkpoint")
    if own.max is not None and value > own.max:
        raise InputError(f"--{name}: got {value}, expected at most {own.max} for this checkpoint")


def quantization_for(recipe: Recipe, request: QuantizationRequest) -> QuantizationRequest:
    """Reduce calibration to the least work where weights are random and images mean nothing.

    Random weights are for measuring speed: one image of two steps gives ranges for int8 kernels, and any image will
    do.
    """
    if SEED not in recipe.source or request != QuantizationRequest():
        return request
    anything = Budget(min_psnr=0.01)
    return replace(
        request,
        budget=anything,
        prompts=request.prompts[:1],
        held_out=request.held_out[:1],
        steps=2,
        guidance_scale=1.0,
    )


def check_variants(variants: Sequence[Variant]) -> None:
    """Refuse variants that a target does not support, and duplicates, before any work.

    Raises:
        InputError: No variant, one twice, an unknown target, or a precision that the target does not do.
        ConfigError: An option that the target does not have, or a value that it cannot have.
        MissingExtraError: The target's library is not installed.
    """
    if not variants:
        raise InputError("--target: got none, expected at least one; see 'diffoundry targets'")
    for number, variant in enumerate(variants):
        find_plugin(variant.target).make_target(variant.options).form(variant.precision)
        if any(_key(other) == _key(variant) for other in variants[:number]):
            raise InputError(
                f"--target and --precision: got {variant.target} {variant.precision} twice, expected it once"
            )


def _key(variant: Variant) -> tuple[str, str]:
    return variant.target, variant.precision


def _hull(buckets: Sequence[tuple[int, int]]) -> dict[str, DimSpec]:
    """Compute the smallest range of sizes that holds every bucket."""
    sides = {"height": [height for height, _ in buckets], "width": [width for _, width in buckets]}
    return {name: DimSpec(min=min(sizes), max=max(sizes)) for name, sizes in sides.items() if sizes}


def parse_buckets(text: str) -> tuple[tuple[int, int], ...]:
    """Read "512x512,768x512": width by height in pixels, as images are named; the result is (height, width).

    Raises:
        InputError: Anything else, or one size twice.
    """
    buckets: list[tuple[int, int]] = []
    for part in text.split(","):
        width, _, height = part.strip().partition("x")
        if not width.isdecimal() or not height.isdecimal() or not int(width) or not int(height):
            raise InputError(f"--buckets: got {part.strip()!r}, expected WIDTHxHEIGHT in pixels, such as 512x512")
        if (int(height), int(width)) in buckets:
            raise InputError(f"--buckets: got {part.strip()} twice, expected each size once")
        buckets.append((int(height), int(width)))
    return tuple(buckets)


def parse_dim(name: str, text: str) -> DimSpec:
    """Read "512" (fixed) or "256..1024" (a range, both ends included).

    Raises:
        InputError: Anything else.
    """
    low, dots, high = text.partition("..")
    if not low.isdecimal() or (dots and not high.isdecimal()) or int(low) < 1:
        raise InputError(f"--{name}: got {text!r}, expected a number such as 512 or a range such as 256..1024")
    bounds = int(low), int(high) if dots else int(low)
    if bounds[1] < bounds[0]:
        raise InputError(f"--{name}: got the range {text!r}, expected the smaller end first")
    return DimSpec(min=bounds[0], max=bounds[1])


def tool_versions() -> dict[str, str]:
    """Versions of the libraries that trace and transform graphs."""
    return {name: version(name) for name in _TOOLS}
