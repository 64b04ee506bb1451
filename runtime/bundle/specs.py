"""The records of a bundle's manifest: tensors, engines, components, recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from diffoundry.runtime.bundle.quantization import QuantizationChoice

__all__ = [
    "PRECISIONS",
    "AdapterSpec",
    "ComponentSpec",
    "DimSpec",
    "EnginePart",
    "EngineSpec",
    "FileSpec",
    "IdleSpec",
    "Recipe",
    "TensorSpec",
    "Variant",
]

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights", "fp8")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output of a network.

    Attributes:
        name: The name in the graph, as in Optimum's exports.
        dtype: NumPy's name of the element type: "float32", "float16", "int32", "int64", "bool".
        shape: Integers, and symbolic sizes such as "batch", "height/8", "(height+15)//16": see `runtime.bundle.dims`.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DimSpec:
    """The allowed values of a symbolic dimension ("batch" in images, "height" and "width" in pixels).

    Attributes:
        min: Smallest value that the engines take.
        max: Largest value, or None for no bound.
        multiple_of: Every value is a multiple of this.
    """

    min: int = 1
    max: int | None = None
    multiple_of: int = 1

    @property
    def fixed(self) -> int | None:
        """The only value allowed, or None when there are several."""
        return self.min if self.min == self.max else None

    def refusal(self, value: int) -> str | None:
        """Return the reason in words why `value` is not allowed, or None when it is."""
        if value < self.min or (self.max is not None and value > self.max):
            return f"expected {self.describe()}"
        if value % self.multiple_of:
            return f"expected a multiple of {self.multiple_of}"
        return None

    def describe(self) -> str:
        """Return the allowed values in words, such as "512" or "256 to 1024 in steps of 64"."""
        if self.fixed is not None:
            return str(self.fixed)
        upper = "any size" if self.max is None else str(self.max)
        steps = f" in steps of {self.multiple_of}" if self.multiple_of > 1 else ""
        return f"{self.min} to {upper}{steps}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSpec:
    """The adapters that an engine takes at run time, without another export.

    Attributes:
        files: Files relative to the bundle: the adaptable form of the graph first, then its data.
        layers: Name of each layer in the torch module that takes a LoRA, to the shape of its weight there: (out, in),
            or (out, in, h, w) of a convolution.
        table: Name of the module whose table of token embeddings takes further rows, or None.
        vocabulary: Rows that the table has; the first further row is the token of this number.
        width: Numbers in a row.
    """

    files: tuple[str, ...]
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    table: str | None = None
    vocabulary: int = 0
    width: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class IdleSpec:
    """Inputs of an engine that change nothing while they are zero, and the graph without them.

    Attributes:
        inputs: Their names: residuals of ControlNets, features of T2I-Adapters, image prompts.
        files: Files of the graph without them, as in `EngineSpec`; none where the engine cuts its own graph.
    """

    inputs: tuple[str, ...]
    files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginePart:
    """One of the graphs that a network was cut into.

    Attributes:
        name: Of `runtime.engines.part_names`; the last part of an engine runs in every step.
        files: As in `EngineSpec`.
        inputs: Inputs of the whole network, and outputs of earlier parts.
        outputs: Values for later parts, or outputs of the network.
        shape_inputs: Names of the inputs whose shapes alone it reads.
        weights: Bytes of its weights.
        options: As in `EngineSpec`.
        metadata: As in `EngineSpec`.
        adapters: As in `EngineSpec`, for its own layers.
        idle: As in `EngineSpec`.
        residuals: Names of outputs to that of the earlier value to which the blocks of a transformer have added, all of
            one shape. The sum of the outputs minus that value is what caches compare and keep.
    """

    name: str
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shape_inputs: tuple[str, ...] = ()
    weights: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    adapters: AdapterSpec | None = None
    idle: IdleSpec | None = None
    residuals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """One lowered form of a component.

    Attributes:
        target: Name of the plugin that made it and can run it.
        precision: One of `PRECISIONS`.
        files: Paths relative to the bundle with forward slashes; the engine opens the first, the others lie beside it.
        inputs: Inputs of `run`, in order.
        outputs: Outputs of `run`, in order.
        options: The target's build options.
        built_with: Library name to version; an engine that needs the same version refuses others when it opens.
        metadata: Notes of the target on its build, such as counts of fused layers. Shown to users, never interpreted.
        pending: The reason why it could not be built where the bundle was made, or None; `diffoundry build` finishes it
            elsewhere from `files`.
        adapters: Adapters that it takes at run time, or None.
        parts: The graphs that it was cut into, in the order in which they run; none for one graph. `files` are then
            those of all parts.
        idle: Inputs that a call may leave out, or None.
    """

    target: str
    precision: str
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    built_with: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pending: str | None = None
    adapters: AdapterSpec | None = None
    parts: tuple[EnginePart, ...] = ()
    idle: IdleSpec | None = None

    def of_part(self, part: EnginePart) -> "EngineSpec":
        """Return one of `parts` as an engine of its own."""
        return replace(
            self,
            files=part.files,
            inputs=part.inputs,
            outputs=part.outputs,
            options=part.options,
            metadata=part.metadata,
            adapters=part.adapters,
            parts=(),
            idle=part.idle,
        )

    @property
    def all_files(self) -> tuple[str, ...]:
        """`files`, and those that only adapters and calls without idle inputs need."""
        others = [each.files for each in (self.adapters, self.idle) if each is not None]
        return tuple(dict.fromkeys(file for some in (self.files, *others) for file in some))

    @property
    def without_idle_inputs(self) -> "EngineSpec":
        """The engine that runs calls which leave out all inputs of `idle`."""
        if self.idle is None:
            return self
        inputs = tuple(tensor for tensor in self.inputs if tensor.name not in self.idle.inputs)
        return replace(self, files=self.idle.files or self.files, inputs=inputs, idle=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentSpec:
    """One component of a bundle: its portable graph and the engines lowered from it.

    Attributes:
        role: One of `runtime.models.roles.ROLES`.
        network: Class of the network in diffusers or transformers, such as "UNet2DConditionModel". In bundles of format
            1 to 4 it follows from model_index.json.
        graph: The portable graph's files, relative to the bundle: model.onnx first, then its external data.
        engines: At least one.
    """

    role: str
    network: str
    graph: tuple[str, ...]
    engines: tuple[EngineSpec, ...]

    @property
    def all_files(self) -> tuple[str, ...]:
        """The files of the graph and of every engine, those that only adapters need included."""
        return (*self.graph, *(file for engine in self.engines for file in engine.all_files))


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSpec:
    """One file of the bundle.

    Attributes:
        size: In bytes.
        sha256: Of the whole, hexadecimal.
        parts: SHA-256 of each of its parts of `checksums.PART_BYTES`, checked in parallel; empty for small files.
    """

    size: int
    sha256: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One set of engines of a bundle: every component for one target in one precision.

    Attributes:
        target: Target name.
        precision: One of `PRECISIONS`.
        options: The target's options that differ from its defaults.
    """

    target: str
    precision: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedLora:
    """A LoRA that was fused into the weights before the export.

    Attributes:
        file: As the user named it.
        scale: Factor of its change.
        sha256: Of the file, hexadecimal.
    """

    file: str
    scale: float
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The recipe to build the bundle again.

    Attributes:
        model: The checkpoint as the user named it: folder, hub id or alias.
        source: The weights: weight file to SHA-256, or the seed of random weights.
        variants: The sets of engines, in the user's order of preference.
        dims: Allowed values of batch, height and width.
        buckets: (height, width) in pixels of the only sizes of the engines; none when they take all of `dims`.
        opset: ONNX opset of the portable graph.
        quantization: Precision to the choice of calibration; the ranges are in files of the bundle.
        loras: LoRAs fused into the weights, in this order.
        controlnets: ControlNets joined to the checkpoint, in this order, as the user named them: folder or alias. The
            sums of their files are in `source`.
        t2i_adapters: Folders of the T2I-Adapters joined to the checkpoint, in this order; sums as above.
        ip_adapters: IP-Adapters joined to the checkpoint, in this order: files, or folders with one each; sums as
            above.
        image_encoder: Folder of the image encoder of the IP-Adapters, as the user named it, or None.
        without: Optional components that were left out although the checkpoint has them.
        vae: Folder or file of the VAE that replaces the checkpoint's own, as the user named it, or None; its sums are
            in `source`.
        attention_control: True if the UNet takes edits of its attention, for Prompt-to-Prompt and heat maps.
        partition: True if denoisers and ControlNets are cut into graphs that run once a call and in every step.
        split: True if denoisers are cut into head, body and tail, so that caches can leave out the body.
    """

    model: str
    source: Mapping[str, str]
    variants: tuple[Variant, ...]
    dims: Mapping[str, DimSpec]
    opset: int
    buckets: tuple[tuple[int, int], ...] = ()
    quantization: Mapping[str, QuantizationChoice] = field(default_factory=dict)
    loras: tuple[FusedLora, ...] = ()
    controlnets: tuple[str, ...] = ()
    t2i_adapters: tuple[str, ...] = ()
    ip_adapters: tuple[str, ...] = ()
    image_encoder: str | None = None
    without: tuple[str, ...] = ()
    vae: str | None = None
    attention_control: bool = False
    partition: bool = False
    split: bool = False
