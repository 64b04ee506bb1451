"""Lowers portable graphs to Core ML packages."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import coremltools as ct
import onnx_ir as ir

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.errors import ConfigError, InputError
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.targets.base import Lowered, Lowering, PrecisionFormat, Target, tensor_specs
from diffoundry.targets.coreml.build.chunks import cut_in_two
from diffoundry.targets.coreml.build.fix_sizes import Sizes, pin, sizes_of
from diffoundry.targets.coreml.build.package import merge_packages, operator_counts, write_package
from diffoundry.targets.coreml.build.program import make_program, refusals
from diffoundry.targets.coreml.build.recipe_palette import recipe_palette
from diffoundry.targets.coreml.build.scratch_weights import ScratchWeights
from diffoundry.targets.coreml.build.split_transposes import SplitTransposes
from diffoundry.targets.coreml.build.swift_resources import write_resources
from diffoundry.targets.coreml.build.token_layout import AttentionOnTokens, FlattenImages
from diffoundry.targets.coreml.build.translation import Style
from diffoundry.targets.empty_inputs import drop_empty_inputs

__all__ = ["CoreMlTarget"]

_FORMATS = {
    "fp16": PrecisionFormat(floats="fp16"),
    "fp32": PrecisionFormat(),
    "int8": PrecisionFormat(floats="fp16", weights="int8", activations="int8"),
    "int8-weights": PrecisionFormat(floats="fp16", weights="int8"),
    "int4-weights": PrecisionFormat(floats="fp16", weights="int4", block=32),
}

_OPSETS = {"iOS16": ct.target.iOS16, "iOS17": ct.target.iOS17, "iOS18": ct.target.iOS18}

_CHOICES = {
    "deployment_target": tuple(_OPSETS),
    "layout": ("diffusers", "swift"),
    "attention": ("auto", "fused", "decomposed", "split-einsum"),
    "chunks": (1, 2),
    "palette": ("none", "4", "6", "8", "recipe"),
}

_PROOF = "never run on Apple hardware here; values are checked by an interpreter of saved packages"


@dataclass(frozen=True, kw_only=True, slots=True)
class CoreMlTarget(Target):
    """Core ML: ML program packages for Apple's devices, made without one.

    Attributes:
        deployment_target: The oldest system that the packages run on: "iOS16" (macOS 13), "iOS17" (macOS 14) or
            "iOS18" (macOS 15). Newer ones have more operators.
        layout: "diffusers": tensors as in this runtime, token ids in int32. "swift": as Apple's ml-stable-diffusion
            hands them over, with its folder of resources beside the engines; this runtime runs both.
        attention: "fused" is one operator, from iOS 18 on; "decomposed" two products around a softmax; "split-einsum"
            goes head by head, for the Neural Engine; "auto" the first of these that there is.
        neural_engine: Transformer blocks in the Neural Engine's layout, (B, C, 1, S) with linear layers as
            convolutions; implies split-einsum.
        chunks: 2 cuts the denoiser in two packages of half the weight.
        palette: Weights as indices into a table found by k-means: "4", "6" or "8" bits for all of them; "recipe" for
            as many bits as the quantized graph gives each, which needs the precision int8-weights or int4-weights.
        sequence: Tokens of a text; the default is the number that the pipeline feeds, 77 with CLIP.
    """

    name: ClassVar[str] = "coreml"
    formats: ClassVar[Mapping[str, PrecisionFormat]] = _FORMATS
    fixes_sizes: ClassVar[bool] = True

    deployment_target: str = "iOS17"
    layout: str = "diffusers"
    attention: str = "auto"
    neural_engine: bool = False
    chunks: int = 1
    palette: str = "none"
    sequence: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: An option has a value that it cannot have, alone or beside another.
        """
        for option, allowed in _CHOICES.items():
            if getattr(self, option) not in allowed:
                expected = ", ".join(map(repr, allowed))
                raise ConfigError(
                    f"coreml option {option!r}: got {getattr(self, option)!r}, expected one of {expected}"
                )
        if self.attention == "fused" and self.deployment_target != "iOS18":
            raise ConfigError(
                f"coreml option 'attention': got 'fused' for {self.deployment_target}, expected iOS18, where attention "
                f"is one operator; choose --deployment-target iOS18 or --attention decomposed"
            )
        if self.neural_engine and self.attention not in ("auto", "split-einsum"):
            raise ConfigError(
                f"coreml option 'attention': got {self.attention!r} with neural_engine, expected split-einsum, the "
                f"only one in its layout; leave --attention out"
            )
        if self.sequence is not None and self.sequence < 1:
            raise ConfigError(f"coreml option 'sequence': got {self.sequence}, expected at least 1")

    def form(self, precision: str) -> PrecisionFormat:
        """See `Target.form`."""
        form = super(CoreMlTarget, self).form(precision)  # slots=True makes another class than super() looks for
        refusal = self._refusal(form)
        if refusal is not None:
            raise InputError(f"precision: got {precision!r} with coreml's {refusal}")
        return form

    def unsupported(self, graph: ir.Model) -> list[str]:
        """See `Target.unsupported`. A graph of free sizes is refused; `lower` fixes them first."""
        return refusals(graph, _OPSETS[self.deployment_target])

    def _check(self, model: ir.Model, work: Lowering) -> None:
        """Refuse nothing yet: the graph is checked once it has one size."""

    def _lower(self, model: ir.Model, work: Lowering) -> Lowered:
        """Write the packages of every size."""
        sizes = sizes_of(work, model, self.sequence)
        packages = self._packages(work, sizes)
        return Lowered(
            files=[file for package in packages for file in _files(package)],
            inputs=_specs(model.graph.inputs, sizes),
            outputs=_specs(model.graph.outputs, sizes),
            options={"sequence": sizes[0].sequence},
            built_with={"coremltools": ct.__version__},
            metadata={
                "proof": _PROOF,
                "sizes": [size.label for size in sizes if size.height is not None],
                "operators": {package.name: operator_counts(package) for package in packages},
            },
        )

    def complete(self, bundle: Path) -> None:
        """See `Target.complete`: the resources of Apple's Swift package, when its layout was asked for."""
        if self.layout == "swift":
            write_resources(bundle)

    def _packages(self, work: Lowering, sizes: tuple[Sizes, ...]) -> list[Path]:
        """Write the packages: one a chunk, and before iOS 18 one a chunk and size."""
        several = self.deployment_target == "iOS18" and len(sizes) > 1
        written: dict[int, dict[str, Path]] = {}
        for size in sizes:
            for chunk, model in enumerate(self._chunks(work, size)):
                work.progress(f"{size.label} pixels" if size.height else "translate")
                path = _path(work, size if len(sizes) > 1 else None, chunk + 1 if self._cut(work) else None)
                with ScratchWeights(work.graph.parent):
                    program = make_program(model, self._style, swift=self.layout == "swift")
                    write_package(program, path, _OPSETS[self.deployment_target], self._metadata(work))
                written.setdefault(chunk, {})[f"size_{size.label}"] = path
        if not several:
            return [path for parts in written.values() for path in parts.values()]
        merged = []
        for chunk, parts in written.items():
            work.progress("merge sizes")
            path = _path(work, None, chunk + 1 if self._cut(work) else None)
            merge_packages(parts, path, self._metadata(work))
            merged.append(path)
        return merged

    def _chunks(self, work: Lowering, size: Sizes) -> Iterator[ir.Model]:
        """The graph of one size, whole or in two."""

        def load() -> ir.Model:
            return self._pinned(work, size)

        whole = load()
        self._refuse(work, self.unsupported(whole))
        yield from cut_in_two(load) if self._cut(work) else (whole,)

    def _cut(self, work: Lowering) -> bool:
        return self.chunks == 2 and work.role == DENOISER

    def _pinned(self, work: Lowering, size: Sizes) -> ir.Model:
        model = ir.load(work.graph)
        if self.layout == "swift":
            for value in model.graph.inputs:
                if value.name == "timestep":  # (1,) here, one a row there
                    value.shape = ir.Shape([ir.SymbolicDim("batch")])
        drop_empty_inputs(model.graph, size.others)
        pin(model, size.symbols)
        SplitTransposes()(model)
        if self.palette == "recipe":
            recipe_palette(model, work.graph.with_name("model.onnx"))
        if self.neural_engine:
            ir.passes.Sequential(AttentionOnTokens(), FlattenImages())(model)
        return model

    def _refusal(self, form: PrecisionFormat) -> str | None:
        """Explain which option forbids a precision format and what to do, or return None when they go together."""
        opset = _OPSETS[self.deployment_target]
        if form.activations is not None and opset < ct.target.iOS17:
            return (
                f"deployment target {self.deployment_target}, expected iOS17 or newer, where activations are "
                f"quantized; choose one, or --precision int8-weights"
            )
        if form.weights == "int4" and opset < ct.target.iOS18 and self.palette != "recipe":
            return (
                f"deployment target {self.deployment_target}, expected iOS18, where weights can have scales in blocks; "
                f"choose it, or --palette recipe"
            )
        quantized_weights = form.weights is not None and form.activations is None
        if self.palette == "recipe" and not quantized_weights:
            return "palette 'recipe', expected int8-weights or int4-weights, whose bits it takes; choose one of these"
        if self.palette not in ("none", "recipe") and form.weights is not None:
            return f"palette {self.palette!r}, expected fp16 or fp32, whose weights are floats; choose one of these"
        return None

    @property
    def _style(self) -> Style:
        fused = self.attention == "fused" or (self.attention == "auto" and self.deployment_target == "iOS18")
        split = self.neural_engine or self.attention == "split-einsum"
        return Style(
            opset=_OPSETS[self.deployment_target],
            attention="split-einsum" if split else "fused" if fused else "decomposed",
            neural_engine=self.neural_engine,
            palette_bits=int(self.palette) if self.palette.isdecimal() else 0,
        )

    def _metadata(self, work: Lowering) -> dict[str, str]:
        return {"diffoundry.component": work.component, "diffoundry.precision": work.precision}


def _path(work: Lowering, size: Sizes | None, chunk: int | None) -> Path:
    """Path of a package: beside the graph, without the precision in its name for the target's first precision."""
    parts = ["model"]
    if not work.first:
        parts.append(work.precision)
    if work.part:
        parts.append(work.part)
    if size is not None:
        parts.append(size.label)
    if chunk is not None:
        parts.append(f"chunk{chunk}")
    return work.graph.with_name(".".join([*parts, "mlpackage"]))


def _files(package: Path) -> list[Path]:
    """The files of a package, its manifest first."""
    files = sorted(path for path in package.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.name != "Manifest.json")
    return files


def _specs(values: Iterable[ir.Value], sizes: tuple[Sizes, ...]) -> tuple[TensorSpec, ...]:
    """Describe the tensors: numbers where every size has the same one, symbols elsewhere."""
    specs = []
    for spec, value in zip(tensor_specs(values), values, strict=True):
        dims: list[int | str] = []
        for symbol, dim in zip(spec.shape, value.shape or (), strict=True):
            known = {str(dim if isinstance(dim, int) else dim.evaluate(size.symbols)) for size in sizes}
            dims.append(int(known.pop()) if len(known) == 1 else symbol)
        specs.append(replace(spec, shape=tuple(dims)))
    return tuple(specs)
