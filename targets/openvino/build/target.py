"""Lowers portable graphs to OpenVINO's intermediate representation."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import EngineError
from diffoundry.runtime.models.roles import VAE_DECODER, VAE_ENCODER
from diffoundry.targets.adapter_graph import adapter_path
from diffoundry.targets.base import Lowered, Lowering, PrecisionFormat, Target, tensor_specs
from diffoundry.targets.default_sizes import folders_of_role, read_default_sizes
from diffoundry.targets.openvino.build.genai_files import fill_in, write_tokenizer
from diffoundry.targets.openvino.build.import_graph import import_graph
from diffoundry.targets.openvino.build.upsample_sizes import doubling
from diffoundry.targets.openvino.fp16_weights import save_halves
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.input_types import take_int64
from diffoundry.targets.openvino.rewrites import rewrite
from diffoundry.targets.openvino.run.devices import core
from diffoundry.targets.openvino.run.idle_inputs import cut_idle_inputs
from diffoundry.targets.openvino.streamed_constants import NotStreamedError, StreamedConstants

__all__ = ["OpenVinoTarget"]

logger = logging.getLogger(__name__)

_NEWEST_OPSET = 23

_FORMATS = {
    "fp32": PrecisionFormat(),
    "bf16": PrecisionFormat(),
    "fp16": PrecisionFormat(),
    "int8": PrecisionFormat(weights="int8", activations="uint8"),
    "int8-weights": PrecisionFormat(weights="int8"),
    "int4-weights": PrecisionFormat(weights="int4"),
}
"""The plugins convert floats themselves, to what the engine asks of them; weights are stored as halves all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVinoTarget(Target):
    """OpenVINO: one file of graph and one of weights a component, in the operators that its plugins reward.

    Attributes:
        winograd: Large 3 x 3 convolutions as matrix products where they run in float32 on a CPU: faster, for more
            memory.
    """

    name: ClassVar[str] = "openvino"
    formats: ClassVar[Mapping[str, PrecisionFormat]] = _FORMATS

    winograd: bool = True

    def unsupported(self, graph: ir.Model) -> list[str]:
        """See `Target.unsupported`."""
        reasons = []
        for domain, version in graph.opset_imports.items():
            if domain not in ("", "ai.onnx"):
                reasons.append(f"the graph needs operators of {domain!r}, OpenVINO reads those of ONNX")
            elif version > _NEWEST_OPSET:
                reasons.append(f"the graph needs opset {version} of ONNX, OpenVINO takes up to {_NEWEST_OPSET}")
        return reasons

    def _lower(self, model: ir.Model, work: Lowering) -> Lowered:
        """Import, rewrite and write the graph; the first precision gets the file names that OpenVINO GenAI opens."""
        inputs = tensor_specs(model.graph.inputs)
        work.progress("import")
        options: dict[str, Any] = {"buckets": [list(bucket) for bucket in work.buckets]} if work.buckets else {}
        default = read_default_sizes(model, work.bundle).symbols
        symbols = {parse_size(str(dim)).symbol for tensor in inputs for dim in tensor.shape}
        if sizes := {name: size for name, size in default.items() if name in symbols and size is not None}:
            options["default_sizes"] = sizes
        words = ["openvino_model", *([] if work.first else [work.precision]), *([work.part] if work.part else [])]
        path = work.graph.with_name(".".join([*words, "xml"]))
        try:
            with StreamedConstants() as streamed:
                metadata = _write(work, inputs, path, streamed)
        except NotStreamedError as error:
            logger.debug("%s: %s; its weights are held in memory", work.graph, error)
            metadata = _write(work, inputs, path, None)
        return Lowered(
            files=(path, path.with_suffix(".bin")),
            options=options,
            built_with={"openvino": ov.__version__.partition("-")[0]},
            metadata=metadata,
        )

    def _adapter_refusal(self, precision: str) -> str | None:
        return "its integer weights are in its own file only" if self.form(precision).quantized else None

    def _write_adaptable(self, opened: ir.Model, model: ir.Model, work: Lowering) -> Sequence[Path]:  # noqa: ARG002
        """Write the graph with references to the portable graph's weights; the engine rewrites it when it is needed."""
        path = adapter_path(work.graph)
        data = {
            path.with_name(str(value.const_value.location))
            for value in opened.graph.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor)
        }
        ir.save(opened, path)
        return path, *sorted(data)

    def _write_idle(
        self,
        cut: ir.Model,  # noqa: ARG002
        model: ir.Model,  # noqa: ARG002
        work: Lowering,  # noqa: ARG002
        lowered: Lowered,
        names: Sequence[str],
    ) -> Sequence[Path] | None:
        """See `Target._write_idle`; the engine cuts them out of its own graph, if it can."""
        return () if cut_idle_inputs(core().read_model(lowered.files[0]), names) else None

    def complete(self, bundle: Path) -> None:
        """See `Target.complete`. Tokenizers and defaults, so that OpenVINO GenAI opens the bundle as it is."""
        for folder in sorted(bundle.glob("tokenizer*")):
            write_tokenizer(folder)
        for folder in folders_of_role(bundle, VAE_ENCODER, VAE_DECODER):
            fill_in(folder / "config.json")


def _write(
    work: Lowering, inputs: Sequence[TensorSpec], path: Path, streamed: StreamedConstants | None
) -> dict[str, int]:
    """Import, rewrite and write a graph, and return how often each rewrite found something.

    Args:
        work: The component.
        inputs: Inputs of its graph.
        path: The .xml file.
        streamed: The context for large constants; None holds them in memory.

    Raises:
        NotStreamedError: They have to be held in memory.
    """
    imported = _imported(work.graph, streamed)
    counts = rewrite(
        imported,
        doubling=doubling(imported, inputs, work.dims, work.buckets),
        wide_heads=work.precision != "fp32",
    )
    take_int64(imported)
    work.progress("write")
    if streamed is not None:
        streamed.check(imported)
    if work.precision == "fp32":
        ov.save_model(imported, path, compress_to_fp16=False)
    else:
        save_halves(imported, path)
    if streamed is not None:
        streamed.fill(path)
    return counts


def _imported(graph: Path, streamed: StreamedConstants | None) -> ov.Model:
    try:
        return import_graph(graph, streamed)
    except Exception as error:  # OpenVINO's exceptions share no public base class
        raise EngineError(f"target 'openvino' cannot take {graph}: {error}") from error
