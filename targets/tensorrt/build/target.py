"""Lowers portable graphs to plans of TensorRT and TensorRT for RTX, or to a recipe for a machine with a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from diffoundry.runtime.bundle.specs import AdapterSpec
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.targets.base import Lowered, Lowering, PrecisionFormat, Target, tensor_specs
from diffoundry.targets.default_sizes import DefaultSizes, read_default_sizes
from diffoundry.targets.tensorrt.base_weights import BaseWeight
from diffoundry.targets.tensorrt.build.build_plan import build_plan
from diffoundry.targets.tensorrt.build.center_group_norm import CenterGroupNorm
from diffoundry.targets.tensorrt.build.engine_files import EngineFiles
from diffoundry.targets.tensorrt.build.host import find_host
from diffoundry.targets.tensorrt.build.int4_layout import FlattenBlocks
from diffoundry.targets.tensorrt.build.job import BuildJob, ProfileShapes
from diffoundry.targets.tensorrt.build.profiles import Profile, make_profiles, shapes_of
from diffoundry.targets.tensorrt.build.unsupported import unsupported
from diffoundry.targets.tensorrt.build.weight_map import refit_map, refittable_layers
from diffoundry.targets.tensorrt.build.write_out_attention import WriteOutAttention
from diffoundry.targets.tensorrt.gpu_types import PRECISION_TYPES, describe, refusals
from diffoundry.targets.tensorrt.sdk import RTX, TENSORRT, Sdk

__all__ = ["RTXTarget", "TensorRTTarget"]

_FORMATS = {
    "fp32": PrecisionFormat(),
    "fp16": PrecisionFormat(floats="fp16"),
    "bf16": PrecisionFormat(floats="bf16"),
    "int8": PrecisionFormat(floats="fp16", weights="int8", activations="int8"),
    "int8-weights": PrecisionFormat(floats="fp16", weights="int8"),
    "int4-weights": PrecisionFormat(floats="fp16", weights="int4"),
    "fp8": PrecisionFormat(floats="fp16", weights="fp8", activations="fp8"),
}

_PASSES = (
    WriteOutAttention(),
    FlattenBlocks(),
    CenterGroupNorm(),
    common.RemoveUnusedNodesPass(),  # with what was replaced
)

_USUAL_CAPABILITIES = (86, 89, 120)
"""GeForce RTX 30, 40 and 50: the cards that people have."""

_FLAGS = {
    "weight_streaming": "WEIGHT_STREAMING",
    "refit": "REFIT_INDIVIDUAL",
    "strip_plan": "STRIP_PLAN",
    "version_compatible": "VERSION_COMPATIBLE",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRTTarget(Target):
    """TensorRT: a plan for the GPU that it is built on.

    Attributes:
        compute_capabilities: GPUs to build for, such as "sm89"; none for sm86, sm89 and sm120, as far as they compute
            in the precision. TensorRT for RTX only.
        profiles: Name to {"batch": [min, opt, max], "height": ..., "width": ..., "sequence": ...}, heights and widths
            in pixels; none for one profile a bucket, or one around what the recipe allows.
        weight_streaming: Gigabytes of weights that stay on the GPU while the others are fetched from the host at each
            run, 0 for TensorRT's own choice; None for all of them.
        refit: True if weights can be changed later, which LoRAs at run time need.
        strip_plan: True if the plan goes without weights, which are taken from the graph when the engine is opened.
        version_compatible: True if later versions of TensorRT can run it. TensorRT only.
    """

    name: ClassVar[str] = "tensorrt"
    formats: ClassVar[Mapping[str, PrecisionFormat]] = _FORMATS
    fixes_sizes: ClassVar[bool] = True
    sdk: ClassVar[Sdk] = TENSORRT

    compute_capabilities: tuple[str, ...] = ()
    profiles: Mapping[str, Any] = field(default_factory=dict)
    weight_streaming: float | None = None
    refit: bool = False
    strip_plan: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: An option that the library does not have, or a value that it cannot have.
        """
        for option, reason in self.sdk.refused.items():
            if getattr(self, option):
                given = getattr(self, option)
                raise ConfigError(f"{self.name} option {option!r}: got {given!r}, expected none: {reason}")
        known = [describe(capability) for capability in self.sdk.compute_capabilities]
        for word in self.compute_capabilities:
            if word not in known:
                raise ConfigError(
                    f"{self.name} option 'compute_capabilities': got {word!r}, expected some of {', '.join(known)}"
                )
        if self.weight_streaming is not None and self.weight_streaming < 0:
            raise ConfigError(
                f"{self.name} option 'weight_streaming': got {self.weight_streaming}, expected gigabytes, 0 or more"
            )
        make_profiles(self.profiles, {}, (), DefaultSizes())

    def form(self, precision: str) -> PrecisionFormat:
        """See `Target.form`. TensorRT takes types from the graph alone: there are no flags of precision."""
        form = super(TensorRTTarget, self).form(precision)  # slots=True makes another class than super() looks for
        reasons = refusals(PRECISION_TYPES[precision], self._capabilities(precision), self.sdk.types)
        if reasons:
            raise InputError(
                f"precision: got {precision!r} for {', '.join(self.compute_capabilities)}, expected one that they "
                f"compute in: {'; '.join(reasons)}"
            )
        return form

    def unsupported(self, graph: ir.Model) -> list[str]:
        """See `Target.unsupported`."""
        return unsupported(graph)

    def _lower(self, model: ir.Model, work: Lowering) -> Lowered:
        """Build the plan. Where the library or a GPU is missing, the engine is pending and its files are a recipe.

        TensorRT's own tools look for no file by name, so `work.first` makes no difference.

        Raises:
            EngineError: The build failed: node, operator, reason, hint.
            ConfigError: The profiles do not fit the graph.
        """
        metadata: dict[str, Any] = _to_fuse(model)
        default = read_default_sizes(model, work.bundle)
        ir.passes.Sequential(*_PASSES)(model)
        profiles = make_profiles(self.profiles, work.dims, work.buckets, default)
        place, files = find_host(self.sdk), EngineFiles.beside(work.graph, self.name)
        weights = refit_map(model)
        job = self._job(model, files, profiles, work.precision, tuple(weights))
        pending = place.obstacle(self._needing_gpu())
        adapters = self._refittable(model, weights, work)
        files.write_graph(model, weights, places=adapters is not None)
        if adapters is not None:
            adapters = replace(adapters, files=work.relative((files.refit, *files.data(model))))
        if pending is None:
            metadata |= build_plan(job, files, files.data(model), place, work)
        else:
            metadata |= {"proof": "not built"}
            files.write_recipe(job)
        return Lowered(
            files=files.keep(model, pending=pending is not None, graph=self.strip_plan),
            options={"profiles": _as_data(profiles), "compute_capabilities": self._words(work.precision)},
            built_with={} if pending or place.version is None else {self.sdk.module: place.version},
            metadata=metadata,
            pending=pending,
            adapters=adapters,
        )

    def _adapter_refusal(self, precision: str) -> str | None:
        if self.form(precision).quantized:
            return "its weights are quantized"
        return None if self.refit else "it was built without --refit"

    def _adapters(self, model: ir.Model, work: Lowering, lowered: Lowered) -> AdapterSpec | None:  # noqa: ARG002
        """Return what refitting can adapt: the weights themselves change, the graph takes no further inputs."""
        return lowered.adapters

    def _refittable(self, model: ir.Model, weights: Mapping[str, BaseWeight], work: Lowering) -> AdapterSpec | None:
        if not work.for_adapters or self._adapter_refusal(work.precision) is not None:
            return None
        spec = refittable_layers(model, weights)
        return spec if spec.layers else None

    def _job(
        self, model: ir.Model, files: EngineFiles, profiles: Sequence[Profile], precision: str, weights: tuple[str, ...]
    ) -> BuildJob:
        inputs = tensor_specs(model.graph.inputs)
        return BuildJob(
            target=self.name,
            graph=files.graph.name,
            plan=files.plan.name,
            profiles=tuple(ProfileShapes(name=p.name, shapes=shapes_of(p, inputs)) for p in profiles),
            compute_capabilities=self._capabilities(precision),
            flags=tuple(flag for option, flag in _FLAGS.items() if self._asks(option)),
            refittable=weights if self.refit else (),
        )

    def _capabilities(self, precision: str) -> tuple[int, ...]:
        """List the compute capabilities to build for; none for the GPU of this machine."""
        if self.compute_capabilities:
            return tuple(int(word.removeprefix("sm")) for word in self.compute_capabilities)
        usual = _USUAL_CAPABILITIES if self.sdk.compute_capabilities else ()
        types, table = PRECISION_TYPES[precision], self.sdk.types
        return tuple(capability for capability in usual if not refusals(types, [capability], table))

    def _words(self, precision: str) -> tuple[str, ...]:
        return tuple(describe(capability) for capability in self._capabilities(precision))

    def _asks(self, option: str) -> bool:
        value = getattr(self, option)
        return value is not None and value is not False

    def _needing_gpu(self) -> tuple[str, ...]:
        asked = (option for option in _FLAGS if option in self.sdk.needs_gpu and self._asks(option))
        return tuple(f"--{option.replace('_', '-')}" for option in asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class RTXTarget(TensorRTTarget):
    """TensorRT for RTX: a plan for GeForce and RTX cards, built on any machine; the options are those of TensorRT."""

    name: ClassVar[str] = "tensorrt-rtx"
    sdk: ClassVar[Sdk] = RTX


def _as_data(profiles: Sequence[Profile]) -> dict[str, Any]:
    return {
        profile.name: {name: (extent.min, extent.opt, extent.max) for name, extent in profile.dims.items()}
        for profile in profiles
    }


def _to_fuse(model: ir.Model) -> dict[str, int]:
    """Count the attentions and group norms that can be fused."""
    operators = [node.op_type for node in model.graph]
    return {"attentions": operators.count("Attention"), "group_norms": operators.count("GroupNormalization")}
