"""Lowers portable graphs to what ONNX Runtime's providers run fastest."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common

from diffoundry.runtime.bundle.specs import AdapterSpec, EngineSpec
from diffoundry.runtime.errors import ConfigError, EngineError
from diffoundry.targets.adapter_graph import TakeAdapters, adapter_path, layers_of
from diffoundry.targets.base import Lowering, PrecisionFormat, choose_form, tensor_specs
from diffoundry.targets.onnxruntime.build.fusions import FuseMultiHeadAttention, SplitGroupNorm, WinogradConvolution

__all__ = ["OnnxRuntimeTarget", "save_beside"]

_OPSETS = {"": 26, "ai.onnx.ml": 5, "com.microsoft": 1}
"""The newest versions that ONNX Runtime 1.31 calls released."""

_SMALLEST_EXTERNAL = 64 << 10
"""Bytes. Smaller new tensors stay in the graph file, so that most engines are one file beside the portable graph."""

_DEVICES = ("cpu", "cuda")

_FORMS = {
    "fp32": PrecisionFormat(),
    "fp16": PrecisionFormat(floats="fp16"),
    "bf16": PrecisionFormat(floats="bf16"),
    "int8": PrecisionFormat(weights="int8", activations="uint8", outputs=True),
    "int8-weights": PrecisionFormat(weights="int8"),
    "int4-weights": PrecisionFormat(weights="int4"),
}
"""bf16 runs on CUDA only. Asymmetric activations: the CPU's int8 kernels take them at the same speed. Outputs: without
them ONNX Runtime converts back to float in front of every convolution, which is slower than fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxRuntimeTarget:
    """ONNX Runtime: a graph file in the operators that its kernels reward.

    Attributes:
        device: Where the engine will run, "cpu" or "cuda". Its file runs on the other one too, only slower.
        winograd: Large 3 x 3 convolutions as matrix products on the CPU: faster, for more memory and disk.
    """

    name: ClassVar[str] = "onnxruntime"

    device: str = "cpu"
    winograd: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: An option has a value that it cannot have.
        """
        if self.device not in _DEVICES:
            raise ConfigError(f"onnxruntime option 'device': got {self.device!r}, expected {' or '.join(_DEVICES)}")

    def unsupported(self, graph: ir.Model) -> list[str]:
        """See `Target.unsupported`."""
        reasons = []
        for domain, version in graph.opset_imports.items():
            newest = _OPSETS.get(domain, 0)
            if version > newest:
                takes = f"takes up to {newest}" if newest else "has no such operators"
                reasons.append(f"the graph needs opset {version} of {domain or 'ONNX'!r}, ONNX Runtime {takes}")
        return reasons

    def form(self, precision: str) -> PrecisionFormat:
        """See `Target.form`."""
        return choose_form(self.name, _FORMS, precision)

    def lower(self, work: Lowering) -> EngineSpec:
        """See `Target.lower`. The engine's graph refers to the given graph's data file for unchanged weights."""
        model = ir.load(work.graph)
        reasons = self.unsupported(model)
        if reasons:
            raise EngineError(f"target {self.name!r} cannot take {work.graph}: {'; '.join(reasons)}")
        result = ir.passes.Sequential(*self._passes())(model)
        engine = work.graph
        if result.modified:
            engine = work.graph.with_name(f"{work.graph.stem}.{self.name}.onnx")
            save_beside(model, engine)
        files = engine, *_data_files(model, work.graph.parent)
        return EngineSpec(
            target=self.name,
            precision=work.precision,
            files=tuple(file.relative_to(work.bundle).as_posix() for file in files),
            inputs=tensor_specs(model.graph.inputs),
            outputs=tensor_specs(model.graph.outputs),
            options=asdict(self),
            built_with={"onnxruntime": ort.__version__},
            metadata=self._why_none(work),
            adapters=self._adaptable(work, model),
        )

    def _why_none(self, work: Lowering) -> dict[str, str]:
        smoothed = work.takes_adapters and self.form(work.precision).activations is not None
        return {"adapters": "its activations are smoothed for int8"} if smoothed else {}

    def _adaptable(self, work: Lowering, engine: ir.Model) -> AdapterSpec | None:
        """Write the engine's graph once more, open for adapters; None where activations are int8, as nothing else fits.

        It refers to the data files of the engine, so that it holds no weight itself.
        """
        if not work.takes_adapters or self.form(work.precision).activations is not None:
            return None
        model = ir.load(work.graph)
        spec = layers_of(model.graph)
        if not spec.layers:
            return None
        ir.passes.Sequential(TakeAdapters(), *self._passes())(model)
        for name, value in model.graph.initializers.items():
            mine = engine.graph.initializers.get(name)
            if mine is not None:  # what passes made is stored already
                value.const_value = mine.const_value
        path = adapter_path(work.graph.with_name(f"{work.graph.stem}.{self.name}.onnx"))
        save_beside(model, path)
        files = path, *_data_files(model, path.parent)
        return replace(spec, files=tuple(file.relative_to(work.bundle).as_posix() for file in files))

    def complete(self, bundle: Path) -> None:
        """See `Target.complete`. ONNX Runtime has no files of its own."""

    def _passes(self) -> tuple[ir.passes.PassBase, ...]:
        cpu = self.device == "cpu"
        return (
            FuseMultiHeadAttention(),  # first: it takes the transposes that the others would look through
            *((SplitGroupNorm(),) if cpu else ()),  # measured on the CPU only
            *((WinogradConvolution(),) if cpu and self.winograd else ()),  # cuDNN has Winograd itself
            common.RemoveUnusedNodesPass(),  # with the weights and shapes that were replaced
        )


def save_beside(model: ir.Model, path: Path) -> None:
    """Write a rewritten graph: external weights stay where they are, new large ones get `<path>_data`.

    Args:
        model: Loaded from the folder of `path`; its new large tensors are external afterwards.
        path: The engine's graph.
    """
    values = [value for value in model.graph.initializers.values() if _is_new_and_large(value.const_value)]
    if values:
        tensors = [value.const_value for value in values if value.const_value is not None]
        written = ir.external_data.convert_tensors_to_external(tensors, path.parent, f"{path.name}_data")
        for value, tensor in zip(values, written, strict=True):
            value.const_value = tensor
    ir.save(model, path)


def _is_new_and_large(tensor: ir.TensorProtocol | None) -> bool:
    return tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes >= _SMALLEST_EXTERNAL


def _data_files(model: ir.Model, folder: Path) -> list[Path]:
    """The data files that the graph refers to."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sorted({folder / tensor.location for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})
