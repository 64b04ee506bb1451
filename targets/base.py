"""What every target looks like to the exporter."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import onnx_ir as ir

from diffoundry.runtime.bundle.specs import DimSpec, EngineSpec, TensorSpec
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.models.controlnet_names import is_controlnet

__all__ = ["USUAL_SIZES", "Lowering", "PrecisionFormat", "Target", "choose_form", "tensor_specs", "usual_sizes"]

USUAL_SIZES = "diffoundry.usual_sizes"
"""Metadata of a portable graph: symbolic dimensions to the sizes that a pipeline feeds by default, as JSON."""

_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int64",
    ir.DataType.BOOL: "bool",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionFormat:
    """The graph that a target wants for a precision; the exporter makes it from the portable one.

    Attributes:
        floats: "fp32", "fp16" or "bf16": the type of weights and activations that are not quantized.
        weights: None; "int8": symmetric, one scale an output channel; "int4": symmetric, in blocks along the input
            axis; "fp8": E4M3, one scale an output channel.
        activations: None; "int8": symmetric, zero point 0; "uint8": asymmetric; "fp8": E4M3. One scale a tensor.
        block: Weights to a scale where weights are "int4".
        outputs: Whether the outputs of quantized convolutions are quantized too, for engines whose int8 convolution has
            no other form.
    """

    floats: str = "fp32"
    weights: str | None = None
    activations: str | None = None
    block: int = 64
    outputs: bool = False

    @property
    def quantized(self) -> bool:
        """Whether anything of it is quantized."""
        return self.weights is not None

    @property
    def label(self) -> str:
        """A name for files: "fp16", "fp32-w-int8-a-uint8"."""
        parts = [self.floats]
        if self.weights is not None:
            parts.append(f"w-{self.weights}" + (f"-{self.block}" if self.weights == "int4" else ""))
        if self.activations is not None:
            parts.append(f"a-{self.activations}" + ("-outputs" if self.outputs else ""))
        return "-".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """One component to lower.

    Attributes:
        component: Its name: "text_encoder", "unet" ...
        graph: `<bundle>/<component>/model.onnx`, or `model.<label>.onnx` in the form that the target asked for, with
            its external data beside it. Never changed; the engine's files lie beside it under names of their own.
        bundle: The bundle's folder: the files of the returned spec are relative to it.
        precision: What was asked for, for the spec.
        dims: What "batch", "height" and "width" (pixels) may be.
        buckets: (height, width) in pixels of the sizes to make engines for; none when they take what `dims` says.
        first: Whether this is the target's first precision in the bundle: the vendor's own file names belong to it.
        tell: Called with words about how far it is.
    """

    component: str
    graph: Path
    bundle: Path
    precision: str
    dims: Mapping[str, DimSpec] = field(default_factory=dict)
    buckets: tuple[tuple[int, int], ...] = ()
    first: bool = True
    tell: Callable[[str], None] = lambda _words: None

    @property
    def takes_adapters(self) -> bool:
        """Whether there are LoRAs for this component: none name ControlNets, VAEs, or what looks at images."""
        others = "vae_", "safety_checker", "image_encoder"
        return not (self.component.startswith(others) or is_controlnet(self.component))


class Target(Protocol):
    """Lowers portable graphs to engines. A frozen dataclass whose fields are the target's options.

    Attributes:
        name: The name of its plugin.
    """

    name: ClassVar[str]

    def form(self, precision: str) -> PrecisionFormat:
        """The graph it wants for a precision.

        Raises:
            InputError: It does not do this precision; the message lists those it does.
        """

    def unsupported(self, graph: ir.Model) -> list[str]:
        """Why this target cannot take `graph`, one sentence a reason; empty when it can. Does no work."""

    def lower(self, work: Lowering) -> EngineSpec:
        """Write the engine of one component.

        Raises:
            EngineError: The target does not take this graph; the message lists the reasons of `unsupported`.
        """

    def complete(self, bundle: Path) -> None:
        """After all components: write what the vendor's own tools look for in a bundle beside the engines, if anything.

        Args:
            bundle: The bundle's folder, complete but for its manifest.

        Raises:
            EngineError: It cannot be made.
        """


def choose_form(target: str, forms: Mapping[str, PrecisionFormat], precision: str) -> PrecisionFormat:
    """The entry of a target's table.

    Raises:
        InputError: There is none; the message lists those there are.
    """
    if precision not in forms:
        raise InputError(f"precision: got {precision!r}, expected one of {', '.join(forms)} for target {target!r}")
    return forms[precision]


def usual_sizes(graph: ir.Model) -> dict[str, int]:
    """Symbolic dimensions of a graph, such as "sequence", to the sizes that engines of one size are made for.

    Empty where every pipeline feeds the same: 77 tokens of CLIP.
    """
    sizes: dict[str, int] = json.loads(graph.metadata_props.get(USUAL_SIZES, "{}"))
    return sizes


def tensor_specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """The manifest's description of a graph's inputs or outputs."""
    return tuple(_tensor_spec(value) for value in values)


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.dtype is not None, f"{value.name} has no type"
    assert value.shape is not None, f"{value.name} has no shape"
    shape = tuple(size if isinstance(size, int) else str(size.value or f"dim{i}") for i, size in enumerate(value.shape))
    return TensorSpec(name=value.name, dtype=_DTYPES[value.dtype], shape=shape)
