"""Fixes the sizes of a portable graph, since Core ML takes no symbolic ones, and folds what depends on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir

from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.roles import CONTROLNET, DENOISER, PRIOR, UPSCALER
from diffoundry.targets.base import Lowering
from diffoundry.targets.default_sizes import DefaultSizes, read_default_sizes

__all__ = ["Sizes", "free_dims", "pin", "sizes_of"]

_GUIDED = (DENOISER, CONTROLNET, PRIOR, UPSCALER)
"""Roles whose calls have two rows an image with guidance."""

_INPUT_LIMIT = 1 << 18
"""Elements of an input of what is folded: shape arithmetic, masks, positions of 512 x 512 tokens of T5; no weights."""

_OUTPUT_LIMIT = 1 << 20

_ROUNDS = 3
"""A folded shape makes the next one known; graphs of ours are done after two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """One size of a component: rows of a call, pixels, tokens, and other symbols of the graph."""

    batch: int
    height: int | None
    width: int | None
    sequence: int
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def symbols(self) -> dict[str, int]:
        """The symbols of a graph's dimensions, as far as they are known."""
        known = {"batch": self.batch, "height": self.height, "width": self.width, "sequence": self.sequence}
        return {**{name: size for name, size in known.items() if size is not None}, **self.others}

    @property
    def label(self) -> str:
        """Width by height, as images are named: "512x768"."""
        return f"{self.width}x{self.height}"


def sizes_of(work: Lowering, model: ir.Model, sequence: int | None) -> tuple[Sizes, ...]:
    """The sizes to lower a component for: one a bucket, and one for a graph without pixels such as a text encoder.

    Where nobody named a size it is the one that the checkpoint was trained for, as its configs say. The denoiser takes
    the recipe's batch, two rows when it is free: with guidance an image asks for two. The others run once an image
    and take one row; the runtime feeds them in turns.

    Raises:
        InputError: The graph has height and width, nothing fixes them, and the checkpoint's own size is not allowed.
    """
    fixed = {name: spec.fixed for name, spec in work.dims.items()}
    batch = (fixed.get("batch") or 2) if work.role in _GUIDED else 1
    default = read_default_sizes(model, work.bundle)
    sequence = sequence or default.sequence
    symbols = _symbols(model)
    if not symbols & {"height", "width"}:
        return (Sizes(batch=batch, height=None, width=None, sequence=sequence, others=default.others),)
    height, width = fixed.get("height"), fixed.get("width")
    buckets = work.buckets or ((height, width) if height and width else _own_size(work, default),)
    return tuple(
        Sizes(batch=batch, height=height, width=width, sequence=sequence, others=default.others)
        for height, width in buckets
    )


def pin(model: ir.Model, symbols: Mapping[str, int]) -> ir.Model:
    """Replace symbols by numbers, fold what they make known, and return the same graph.

    Given:
        %n = Shape(%x)                          # %x: [batch, 4, height/8, width/8]
        %y = Resize(%x, , , Concat(%n[:2], Mul(%n[2:], 2)))
    Result:
        %y = Resize(%x, , , [2, 4, 128, 128])   # %x: [2, 4, 64, 64]

    Args:
        model: As `portable_passes` leave it: flat, its constants initializers.
        symbols: "batch", "height", "width", "sequence" to sizes. A dimension of other symbols stays as it is.
    """
    for value in _values(model.graph):
        value.shape = _evaluated(value.shape, symbols)
    clean = ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0), common.RemoveUnusedNodesPass()
    )
    for _ in range(_ROUNDS):
        folded = fold_constants_ir(
            model, onnx_shape_inference=True, input_size_limit=_INPUT_LIMIT, output_size_limit=_OUTPUT_LIMIT
        )
        clean(model)
        if not folded.modified:
            break
    return model


def free_dims(graph: ir.Graph) -> dict[str, list[str]]:
    """The values that have no static shape, inputs first: name to the dimensions that are not numbers."""
    free = {}
    for value in _values(graph):
        dims = None if value.shape is None else [str(dim) for dim in value.shape if not isinstance(dim, int)]
        if dims is None or dims:
            free[str(value.name)] = dims or ["all"]
    return free


def _own_size(work: Lowering, default: DefaultSizes) -> tuple[int, int]:
    """Return height and width in pixels that the checkpoint was trained for."""
    allowed = {name: work.dims.get(name, DimSpec()) for name in ("height", "width")}
    height, width = default.height, default.width
    own = "no size of the checkpoint's own"
    if height and width:
        own = f"{width}x{height} pixels, the checkpoint's own size"
        if allowed["height"].refusal(height) is None and allowed["width"].refusal(width) is None:
            work.progress(own)
            return height, width
    got = " and ".join(f"{name} {spec.describe()}" for name, spec in allowed.items())
    raise InputError(
        f"component {work.component!r}: got {got}, and {own}, expected one size or some: Core ML packages are made for "
        f"one each; name them with --buckets 512x512, or with --height and --width"
    )


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _symbols(model: ir.Model) -> frozenset[str]:
    """The symbols of the inputs' dimensions."""
    shapes = [value.shape for value in model.graph.inputs if value.shape is not None]
    return frozenset().union(*(shape.free_symbols() for shape in shapes))


def _evaluated(shape: ir.Shape | None, symbols: Mapping[str, int]) -> ir.Shape | None:
    if shape is None:
        return None
    dims: list[int | ir.SymbolicDim] = []
    for dim in shape:
        size = dim if isinstance(dim, int) else dim.evaluate(dict(symbols))
        dims.append(dim if size is None else size)
    return ir.Shape(dims)
