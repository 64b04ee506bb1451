"""Lowers portable graphs to what ONNX Runtime's providers run fastest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common

from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.errors import ConfigError
from diffoundry.runtime.models.roles import DENOISER, UPSCALER, VAE_DECODER, VAE_ENCODER
from diffoundry.targets.adapter_graph import adapter_path
from diffoundry.targets.base import Lowered, Lowering, PrecisionFormat, Target
from diffoundry.targets.idle_graph import idle_path
from diffoundry.targets.onnxruntime.build.fusions import (
    DequantizeFirst,
    FuseMultiHeadAttention,
    SplitGroupNorm,
    WinogradConvolution,
)

__all__ = ["OnnxRuntimeTarget", "save_beside"]

_OPSETS = {"": 26, "ai.onnx.ml": 5, "com.microsoft": 1}
"""The newest versions that ONNX Runtime 1.31 calls released."""

_SMALLEST_EXTERNAL = 64 << 10
"""Bytes. Smaller new tensors stay in the graph file, so that most engines are one file beside the portable graph."""

_LARGE = 256 * 256
"""Pixels from which on the sums of a group are made by rows, where a graph has a fixed size."""

_DEVICES = ("cpu", "cuda")

_FORMATS = {
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
class OnnxRuntimeTarget(Target):
    """ONNX Runtime: a graph file in the operators that its kernels reward.

    Attributes:
        device: Device of the engine, "cpu" or "cuda". Its file runs on the other one too, only slower.
        winograd: Large 3 x 3 convolutions as matrix products on the CPU: faster, for more memory and disk.
    """

    name: ClassVar[str] = "onnxruntime"
    formats: ClassVar[Mapping[str, PrecisionFormat]] = _FORMATS
    frees_times: ClassVar[bool] = True

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

    def _lower(self, model: ir.Model, work: Lowering) -> Lowered:
        """Write the engine's graph, which refers to the portable graph's data file for unchanged weights."""
        engine = work.graph
        if ir.passes.Sequential(*self._passes(work.role, model))(model).modified:
            engine = self._path(work)
            save_beside(model, engine)
        return Lowered(files=(engine, *_data_files(model, engine.parent)), built_with={"onnxruntime": ort.__version__})

    def _adapter_refusal(self, precision: str) -> str | None:
        return "its activations are smoothed for int8" if self.form(precision).activations is not None else None

    def _write_adaptable(self, opened: ir.Model, model: ir.Model, work: Lowering) -> Sequence[Path]:
        """Write the graph with references to the engine's data files, so that it holds no weight itself."""
        return self._write_sharing(opened, model, work, adapter_path(self._path(work)))

    def _write_idle(
        self,
        cut: ir.Model,
        model: ir.Model,
        work: Lowering,
        lowered: Lowered,  # noqa: ARG002
        names: Sequence[str],  # noqa: ARG002
    ) -> Sequence[Path]:
        """See `Target._write_idle`; the graph holds no weight itself."""
        return self._write_sharing(cut, model, work, idle_path(self._path(work)))

    def _write_sharing(self, changed: ir.Model, model: ir.Model, work: Lowering, path: Path) -> Sequence[Path]:
        """Lower another form of a graph, with references to the data files of the engine.

        Args:
            changed: The form, before the passes.
            model: The graph as `_lower` left it.
            work: The component.
            path: File to write.
        """
        ir.passes.Sequential(*self._passes(work.role, changed))(changed)
        for name, value in changed.graph.initializers.items():
            shared = model.graph.initializers.get(name)
            if shared is not None:
                value.const_value = shared.const_value
        save_beside(changed, path)
        return path, *_data_files(changed, path.parent)

    def _path(self, work: Lowering) -> Path:
        return work.graph.with_name(f"{work.graph.stem}.{self.name}.onnx")

    def _passes(self, role: str, model: ir.Model) -> tuple[ir.passes.PassBase, ...]:
        cpu = self.device == "cpu"
        in_pixels = role in (DENOISER, UPSCALER) and _reads_pixels(model)
        large = role in (VAE_ENCODER, VAE_DECODER) or in_pixels  # its groups hold whole images
        return (
            FuseMultiHeadAttention(),  # first: it takes the transposes that the others would look through
            SplitGroupNorm(kernels=cpu, by_rows=cpu and large),
            *((WinogradConvolution(),) if cpu and self.winograd else ()),  # cuDNN has Winograd itself
            common.RemoveUnusedNodesPass(),  # with the weights and shapes that were replaced
            DequantizeFirst(),  # last: it moves what the others have left
        )


def _reads_pixels(model: ir.Model) -> bool:
    """Return True if the first input of a denoiser may be as large as an image, not as its latents."""
    sides = [side.value if isinstance(side, ir.SymbolicDim) else side for side in model.graph.inputs[0].shape or ()][2:]
    numbers = [side for side in sides if isinstance(side, int)]
    if len(sides) != 2:  # tokens
        return False
    if len(numbers) == 2:
        return math.prod(numbers) >= _LARGE
    return any(parse_size(str(side)).divisor == 1 for side in sides if not isinstance(side, int))


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
