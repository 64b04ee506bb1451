"""Lowers portable graphs to OpenVINO's intermediate representation."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from diffoundry.runtime.bundle.specs import AdapterSpec, EngineSpec
from diffoundry.runtime.errors import EngineError
from diffoundry.targets.adapter_graph import TakeAdapters, adapter_path, layers_of
from diffoundry.targets.base import Lowering, PrecisionFormat, choose_form, tensor_specs
from diffoundry.targets.openvino.build.genai_files import write_tokenizer
from diffoundry.targets.openvino.build.import_graph import import_graph
from diffoundry.targets.openvino.build.upsample_sizes import doubling
from diffoundry.targets.openvino.fp16_weights import save_halves
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.input_types import take_int64
from diffoundry.targets.openvino.rewrites import rewrite
from diffoundry.targets.openvino.vae_config import fill_in

__all__ = ["OpenVinoTarget"]

_NEWEST_OPSET = 23

_FORMS = {
    "fp32": PrecisionFormat(),
    "bf16": PrecisionFormat(),
    "fp16": PrecisionFormat(),
    "int8": PrecisionFormat(weights="int8", activations="uint8"),
    "int8-weights": PrecisionFormat(weights="int8"),
    "int4-weights": PrecisionFormat(weights="int4"),
}
"""The plugins convert floats themselves, to what the engine asks of them; weights are stored as halves all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVinoTarget:
    """OpenVINO: one file of graph and one of weights a component, in the operators that its plugins reward.

    Attributes:
        winograd: Large 3 x 3 convolutions as matrix products where they run in float32 on a CPU: faster, for more
            memory.
    """

    name: ClassVar[str] = "openvino"

    winograd: bool = True

    def form(self, precision: str) -> PrecisionFormat:
        """See `Target.form`."""
        return choose_form(self.name, _FORMS, precision)

    def unsupported(self, graph: ir.Model) -> list[str]:
        """See `Target.unsupported`."""
        reasons = []
        for domain, version in graph.opset_imports.items():
            if domain not in ("", "ai.onnx"):
                reasons.append(f"the graph needs operators of {domain!r}, OpenVINO reads those of ONNX")
            elif version > _NEWEST_OPSET:
                reasons.append(f"the graph needs opset {version} of ONNX, OpenVINO takes up to {_NEWEST_OPSET}")
        return reasons

    def lower(self, work: Lowering) -> EngineSpec:
        """See `Target.lower`. The first precision gets the file names that OpenVINO GenAI opens."""
        graph = ir.load(work.graph)
        reasons = self.unsupported(graph)
        if reasons:
            raise EngineError(f"target {self.name!r} cannot take {work.graph}: {'; '.join(reasons)}")
        inputs = tensor_specs(graph.graph.inputs)
        work.tell("import")
        model = _imported(work.graph)
        facts = rewrite(
            model,
            doubling=doubling(model, inputs, work.dims, work.buckets),
            wide_heads=work.precision != "fp32",
        )
        take_int64(model)
        work.tell("write")
        stem = "openvino_model" if work.first else f"openvino_model.{work.precision}"
        path = work.graph.with_name(f"{stem}.xml")
        if work.precision == "fp32":
            ov.save_model(model, path, compress_to_fp16=False)
        else:
            save_halves(model, path)
        return EngineSpec(
            target=self.name,
            precision=work.precision,
            files=tuple(file.relative_to(work.bundle).as_posix() for file in (path, path.with_suffix(".bin"))),
            inputs=inputs,
            outputs=tensor_specs(graph.graph.outputs),
            options={**asdict(self), **_buckets(work)},
            built_with={"openvino": ov.__version__.partition("-")[0]},
            metadata=facts | self._why_none(work),
            adapters=self._adaptable(work),
        )

    def _why_none(self, work: Lowering) -> dict[str, str]:
        quantized = work.takes_adapters and self.form(work.precision).quantized
        return {"adapters": "its integer weights are in its own file only"} if quantized else {}

    def _adaptable(self, work: Lowering) -> AdapterSpec | None:
        """Write the portable graph once more, open for adapters; None where its weights are not those of other engines.

        Its file has no weights, it refers to the portable graph's. The engine rewrites it when the first adapter comes.
        """
        if not work.takes_adapters or self.form(work.precision).quantized:
            return None
        model, path = ir.load(work.graph), adapter_path(work.graph)
        spec = layers_of(model.graph)
        if not spec.layers:
            return None
        data = {
            path.with_name(str(value.const_value.location))
            for value in model.graph.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor)
        }
        ir.save(TakeAdapters()(model).model, path)
        files = tuple(file.relative_to(work.bundle).as_posix() for file in (path, *sorted(data)))
        return replace(spec, files=files)

    def complete(self, bundle: Path) -> None:
        """See `Target.complete`. Tokenizers and defaults, so that OpenVINO GenAI opens the bundle as it is."""
        for folder in sorted(bundle.glob("tokenizer*")):
            write_tokenizer(folder)
        for config in sorted(bundle.glob("vae_*/config.json")):
            fill_in(config)


def _imported(graph: Path) -> ov.Model:
    try:
        return import_graph(graph)
    except Exception as error:  # OpenVINO's exceptions share no public base class
        raise EngineError(f"target 'openvino' cannot take {graph}: {error}") from error


def _buckets(work: Lowering) -> dict[str, Any]:
    return {"buckets": [list(bucket) for bucket in work.buckets]} if work.buckets else {}
