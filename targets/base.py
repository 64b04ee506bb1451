"""The base class of all targets: the half of lowering that they share."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from diffoundry.runtime.bundle.specs import AdapterSpec, DimSpec, EngineSpec, IdleSpec, TensorSpec
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.models.roles import DENOISER, PRIOR, TEXT_ENCODER
from diffoundry.targets.adapter_graph import TakeAdapters, layers_of
from diffoundry.targets.empty_inputs import drop_empty_inputs
from diffoundry.targets.idle_graph import drop_idle_inputs, is_idle_input

__all__ = ["USUAL_SIZES", "Lowered", "Lowering", "PrecisionFormat", "Target", "tensor_specs", "usual_sizes"]

USUAL_SIZES = "diffoundry.usual_sizes"
"""Metadata of a portable graph: symbolic dimensions to the sizes that a pipeline feeds by default, as JSON."""

_WITH_ADAPTERS = (DENOISER, PRIOR, TEXT_ENCODER)
"""Roles of the components that LoRAs are trained for."""

_SHOWN_REASONS = 5
"""Reasons that an error lists: a quantized graph that is refused is refused at every node."""

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
        outputs: True if the outputs of quantized convolutions are quantized too, for engines whose int8 convolution has
            no other form.
    """

    floats: str = "fp32"
    weights: str | None = None
    activations: str | None = None
    block: int = 64
    outputs: bool = False

    @property
    def quantized(self) -> bool:
        """True if weights are quantized."""
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
        role: Its role in the pipeline, of `runtime.models.roles`.
        graph: `<bundle>/<component>/model.onnx`, or `model.<label>.onnx` in the form that the target asked for, with
            its external data beside it. Never changed; the engine's files lie beside it under names of their own.
        bundle: The bundle's folder: the files of the returned spec are relative to it.
        precision: Requested precision, for the spec.
        dims: Allowed values of "batch", "height" and "width" (pixels).
        buckets: (height, width) in pixels of the sizes to make engines for; none when they take what `dims` says.
        first: True if this is the target's first precision in the bundle: the vendor's own file names belong to it.
        progress: Called with a short text as the work goes on.
        part: Name of the part of the network that the graph is; empty for the whole network. Files are named after it.
    """

    component: str
    role: str
    graph: Path
    bundle: Path
    precision: str
    dims: Mapping[str, DimSpec] = field(default_factory=dict)
    buckets: tuple[tuple[int, int], ...] = ()
    first: bool = True
    progress: Callable[[str], None] = lambda _words: None
    part: str = ""

    @property
    def for_adapters(self) -> bool:
        """True if LoRAs are trained for components of this role."""
        return self.role in _WITH_ADAPTERS

    def relative(self, files: Iterable[Path]) -> tuple[str, ...]:
        """Return the paths of files of the bundle as the manifest has them."""
        return tuple(file.relative_to(self.bundle).as_posix() for file in files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowered:
    """Result of `Target._lower`.

    Attributes:
        files: The engine's files; the engine opens the first.
        inputs: Inputs of the engine, or None for those of the portable graph.
        outputs: Outputs of the engine, or None for those of the portable graph.
        options: Build options beside the target's own fields, or in their place.
        built_with: Library name to version.
        metadata: Notes on the build for users.
        pending: Reason why the engine could not be built here, or None.
        adapters: Description of what can be loaded into the engine at run time, from targets that override `_adapters`.
    """

    files: Sequence[Path]
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    built_with: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pending: str | None = None
    adapters: AdapterSpec | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Target(ABC):
    """Lowers portable graphs to engines. Subclasses are frozen dataclasses whose fields are the target's options.

    A subclass gives `name`, `formats`, `unsupported` and `_lower`. One whose engines take LoRAs also gives
    `_adapter_refusal` and `_write_adaptable`. One whose engines run without idle inputs gives `_write_idle`.

    Attributes:
        name: Name of its plugin.
        formats: Precision to the graph that the target wants for it.
        fixes_sizes: True if its engines take the usual sizes of dimensions that are neither rows nor pixels.
        frees_times: True if a part of a network may take any number of timesteps.
    """

    name: ClassVar[str]
    formats: ClassVar[Mapping[str, PrecisionFormat]]
    fixes_sizes: ClassVar[bool] = False
    frees_times: ClassVar[bool] = False

    def form(self, precision: str) -> PrecisionFormat:
        """Return the graph that the target wants for a precision.

        Raises:
            InputError: The target does not do this precision; the message lists those it does.
        """
        if precision not in self.formats:
            raise InputError(
                f"precision: got {precision!r}, expected one of {', '.join(self.formats)} for target {self.name!r}"
            )
        return self.formats[precision]

    @abstractmethod
    def unsupported(self, graph: ir.Model) -> list[str]:
        """List why this target cannot take `graph`, one sentence a reason; empty when it can. Does no work."""

    def lower(self, work: Lowering) -> EngineSpec:
        """Write the engine of one component.

        Raises:
            EngineError: The target does not take this graph; the message lists the reasons of `unsupported`.
        """
        model = ir.load(work.graph)
        if self.fixes_sizes:
            drop_empty_inputs(model.graph, usual_sizes(model))
        self._check(model, work)
        inputs, outputs = tensor_specs(model.graph.inputs), tensor_specs(model.graph.outputs)
        lowered = self._lower(model, work)
        metadata, adapters = dict(lowered.metadata), None
        if work.for_adapters:
            refusal = self._adapter_refusal(work.precision)
            if refusal is None:
                adapters = self._adapters(model, work, lowered)
            else:
                metadata["adapters"] = refusal
        return EngineSpec(
            target=self.name,
            precision=work.precision,
            files=work.relative(lowered.files),
            inputs=lowered.inputs or inputs,
            outputs=lowered.outputs or outputs,
            options={**asdict(self), **lowered.options},
            built_with=lowered.built_with,
            metadata=metadata,
            pending=lowered.pending,
            adapters=adapters,
            idle=self._idle(model, work, lowered) if work.role == DENOISER else None,
        )

    def complete(self, bundle: Path) -> None:  # noqa: B027  # most vendors have no files of their own
        """Write what the vendor's own tools look for in a bundle beside the engines, after all components.

        Args:
            bundle: The bundle's folder, complete but for its manifest.

        Raises:
            EngineError: It cannot be made.
        """

    @abstractmethod
    def _lower(self, model: ir.Model, work: Lowering) -> Lowered:
        """Write the engine's files.

        Args:
            model: The graph of `work`, which the target may change in place.
            work: The component.
        """

    def _check(self, model: ir.Model, work: Lowering) -> None:
        """Refuse a graph that the target cannot take."""
        self._refuse(work, self.unsupported(model))

    def _refuse(self, work: Lowering, reasons: Sequence[str]) -> None:
        """Raise an error with the reasons, if there are any."""
        if reasons:
            more = f"; and {len(reasons) - _SHOWN_REASONS} more" if len(reasons) > _SHOWN_REASONS else ""
            shown = "; ".join(reasons[:_SHOWN_REASONS])
            raise EngineError(f"target {self.name!r} cannot take {work.graph}: {shown}{more}")

    def _adapter_refusal(self, precision: str) -> str | None:  # noqa: ARG002  # for subclasses
        """Return why engines of a precision take no adapters, or None when they do."""
        return "engines of this target take none"

    def _adapters(self, model: ir.Model, work: Lowering, lowered: Lowered) -> AdapterSpec | None:  # noqa: ARG002
        """Write the graph once more with inputs for adapters, and describe it; None when no layer takes any.

        Args:
            model: The graph as `_lower` left it.
            work: The component.
            lowered: Result of `_lower`.
        """
        opened = ir.load(work.graph)
        spec = layers_of(opened.graph)
        if not spec.layers:
            return None
        TakeAdapters()(opened)
        return replace(spec, files=work.relative(self._write_adaptable(opened, model, work)))

    def _write_adaptable(self, opened: ir.Model, model: ir.Model, work: Lowering) -> Sequence[Path]:
        """Write a graph that has inputs for adapters, and return its files, the graph first.

        Args:
            opened: The graph of `work` after `TakeAdapters`.
            model: The graph as `_lower` left it, whose weights can be shared.
            work: The component.
        """
        raise NotImplementedError

    def _idle(self, model: ir.Model, work: Lowering, lowered: Lowered) -> IdleSpec | None:
        """Describe the inputs that a call may leave out; None where there are none, or the engine needs them."""
        if not any(is_idle_input(str(value.name)) for value in model.graph.inputs):
            return None
        cut = ir.load(work.graph)
        names = drop_idle_inputs(cut, part=bool(work.part))
        files = self._write_idle(cut, model, work, lowered, names) if names else None
        return None if files is None else IdleSpec(inputs=names, files=work.relative(files))

    def _write_idle(
        self,
        cut: ir.Model,  # noqa: ARG002  # all for subclasses
        model: ir.Model,  # noqa: ARG002
        work: Lowering,  # noqa: ARG002
        lowered: Lowered,  # noqa: ARG002
        names: Sequence[str],  # noqa: ARG002
    ) -> Sequence[Path] | None:
        """Write the graph without idle inputs, and return its files; none where the engine cuts its own graph.

        Args:
            cut: The graph of `work` after `drop_idle_inputs`.
            model: The graph as `_lower` left it, whose weights can be shared.
            work: The component.
            lowered: Result of `_lower`.
            names: The inputs.

        Returns:
            None where engines of this target take all inputs in every call.
        """
        return None


def usual_sizes(graph: ir.Model) -> dict[str, int]:
    """Symbolic dimensions of a graph, such as "sequence", to the sizes that engines of one size are made for.

    Empty where every pipeline feeds the same: 77 tokens of CLIP.
    """
    sizes: dict[str, int] = json.loads(graph.metadata_props.get(USUAL_SIZES, "{}"))
    return sizes


def tensor_specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """Describe a graph's inputs or outputs for the manifest."""
    return tuple(_tensor_spec(value) for value in values)


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.dtype is not None, f"{value.name} has no type"
    assert value.shape is not None, f"{value.name} has no shape"
    shape = tuple(size if isinstance(size, int) else str(size.value or f"dim{i}") for i, size in enumerate(value.shape))
    return TensorSpec(name=value.name, dtype=_DTYPES[value.dtype], shape=shape)
