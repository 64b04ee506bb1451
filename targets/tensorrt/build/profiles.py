"""Shape profiles: the sizes that an engine takes, as data, checked before TensorRT sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffoundry.runtime.bundle.dims import parse_size, size_of
from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.errors import ConfigError
from diffoundry.targets.default_sizes import DefaultSizes

__all__ = ["Profile", "Range", "Shapes", "make_profiles", "shapes_of"]

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Input to its smallest, its preferred and its largest shape."""

_FREE_BATCH = (1, 2, 4)
"""Range of the batch if the recipe has none: one guided image is two rows, two are four."""

_PIXELS = 512
"""Height and width if no config has them: those of Stable Diffusion 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Range of one dimension: kernels are chosen for `opt` and run from `min` to `max`."""

    min: int
    opt: int
    max: int

    @property
    def static(self) -> bool:
        """True if there is only one size."""
        return self.min == self.max


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A named set of ranges.

    Attributes:
        name: "default", "512x512" (width by height, as images are named) or the user's own.
        dims: "batch", "height", "width" (pixels), "sequence" and other symbols of the graph to what they may be.
    """

    name: str
    dims: Mapping[str, Range]

    @property
    def static(self) -> bool:
        """True if every size is fixed."""
        return all(extent.static for extent in self.dims.values())


def make_profiles(
    given: Mapping[str, Any], dims: Mapping[str, DimSpec], buckets: Sequence[tuple[int, int]], default: DefaultSizes
) -> tuple[Profile, ...]:
    """The profiles of a component.

    Args:
        given: Of the user: name to {"height": [min, opt, max], ...}; dimensions that are left out are as by default.
        dims: Sizes that the recipe allows.
        buckets: (height, width) in pixels; each gets a profile of that size alone.
        default: Sizes that the ranges of free dimensions lie around.

    Raises:
        ConfigError: A profile that TensorRT could not take or the recipe does not allow, or both ways at once.
    """
    usual = {
        "batch": _usual(_FREE_BATCH, dims.get("batch", DimSpec())),
        "height": _usual(_around(default.height, dims, "height"), dims.get("height", DimSpec())),
        "width": _usual(_around(default.width, dims, "width"), dims.get("width", DimSpec())),
        "sequence": _only(default.sequence),
        **{name: _only(size) for name, size in default.others.items()},
    }
    if given and buckets:
        raise ConfigError("profiles: got them together with buckets, expected one of the two ways to name sizes")
    if given:
        return tuple(Profile(name=name, dims=usual | _read(name, sizes, dims)) for name, sizes in given.items())
    if buckets:
        return tuple(
            Profile(name=f"{width}x{height}", dims=usual | {"height": _only(height), "width": _only(width)})
            for height, width in buckets
        )
    return (Profile(name="default", dims=usual),)


def shapes_of(profile: Profile, inputs: Sequence[TensorSpec]) -> Shapes:
    """The shapes of a graph's inputs under a profile; those of inputs without free dimensions are left out.

    Raises:
        ConfigError: An input has a dimension that the profile does not know, or one that does not come out whole.
    """
    shapes = {}
    for tensor in inputs:
        if any(isinstance(dim, str) for dim in tensor.shape):
            sizes = [_sizes(profile, tensor, dim) for dim in tensor.shape]
            smallest, preferred, largest = zip(*sizes, strict=True)
            shapes[tensor.name] = smallest, preferred, largest
    return shapes


def _usual(free: tuple[int, int, int], dim: DimSpec) -> Range:
    """Return the range of a dimension that no profile names: the bounds of the recipe, or `free` where it has none."""
    low, middle, high = free
    low, high = (dim.min, dim.max) if dim.max is not None else (max(low, dim.min), max(high, dim.min))
    return Range(min=low, opt=min(max(middle, low), high), max=high)


def _around(default: int | None, dims: Mapping[str, DimSpec], name: str) -> tuple[int, int, int]:
    """Return half, all and one and a half of a default number of pixels."""
    size, dim = default or _PIXELS, dims.get(name, DimSpec())
    return _multiple(size // 2, dim), _multiple(size, dim), _multiple(size * 3 // 2, dim)


def _multiple(size: int, dim: DimSpec) -> int:
    return max(size // dim.multiple_of, 1) * dim.multiple_of


def _only(size: int) -> Range:
    return Range(min=size, opt=size, max=size)


def _read(name: str, sizes: Any, dims: Mapping[str, DimSpec]) -> dict[str, Range]:
    """Check the ranges of one profile of the user."""
    known = ("batch", "height", "width", "sequence")
    if not name or not isinstance(sizes, Mapping):
        raise ConfigError(f"profile {name!r}: got {sizes!r}, expected a name and an object such as {_EXAMPLE}")
    ranges = {}
    for dim, numbers in sizes.items():
        where = f"profile {name!r}, dimension {dim!r}"
        if dim not in known:
            raise ConfigError(f"{where}: got an unknown name, expected one of {', '.join(known)}")
        ranges[dim] = _range(where, numbers)
        for size in (ranges[dim].min, ranges[dim].opt, ranges[dim].max):
            refusal = dims.get(dim, DimSpec()).refusal(size)
            if refusal is not None:
                raise ConfigError(f"{where}: got {size}, {refusal}, as the bundle's recipe says")
    return ranges


_EXAMPLE = '{"small": {"batch": [1, 2, 2], "height": [256, 512, 512], "width": [256, 512, 512]}}'


def _range(where: str, numbers: Any) -> Range:
    whole = isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers)
    if not whole or len(numbers) != 3:
        raise ConfigError(f"{where}: got {numbers!r}, expected three whole numbers [min, opt, max]")
    low, middle, high = numbers
    if not 1 <= low <= middle <= high:
        raise ConfigError(f"{where}: got [{low}, {middle}, {high}], expected 1 <= min <= opt <= max; sort them")
    return Range(min=low, opt=middle, max=high)


def _sizes(profile: Profile, tensor: TensorSpec, dim: int | str) -> tuple[int, int, int]:
    """Smallest, preferred and largest size of one dimension, such as "height/8" or "(height+15)//16"."""
    if isinstance(dim, int):
        return dim, dim, dim
    where = f"profile {profile.name!r}, input {tensor.name!r}, dimension {dim!r}"
    base, parts, _ = parse_size(dim)
    if base not in profile.dims:
        raise ConfigError(
            f"{where}: got one that no range is known for, expected {', '.join(profile.dims)}, or a fraction of one; "
            f"this component has a dimension that the target does not know"
        )
    extent = profile.dims[base]
    sizes = []
    for size in (extent.min, extent.opt, extent.max):
        part = size_of(dim, {base: size})
        if part is None:
            raise ConfigError(f"{where}: got {base} {size}, expected a multiple of {parts}; change the profile")
        sizes.append(part)
    low, middle, high = sizes
    return low, middle, high
