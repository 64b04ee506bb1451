"""Lowers components of small models once a session, and runs what was saved: interpreted, and with Core ML on a Mac."""

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from filelock import FileLock

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.passes.half_precision import HalfPrecision
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.quantize import Quantize
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import EngineSpec
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.coreml.build.target import CoreMlTarget
from diffoundry.targets.coreml.run.engine import CoreMlEngine

_ON_A_MAC = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")


@pytest.fixture(params=["interpreted", pytest.param("core-ml", marks=_ON_A_MAC)])
def open_engine(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Opens what `lowered` gave: by the interpreter everywhere, by Core ML itself on a Mac."""
    from coreml_interpreter.engine import InterpretedEngine

    engine: Any = {"interpreted": InterpretedEngine, "core-ml": CoreMlEngine}[request.param]
    return lambda made: engine(made.path, made.spec, EngineOptions(device="cpu"))


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A lowered component: its manifest entry, and the bundle that it lies in."""

    spec: EngineSpec
    bundle: Path
    graph: Path

    @property
    def path(self) -> Path:
        """Path that the runtime opens."""
        return self.bundle / self.spec.files[0]

    @property
    def packages(self) -> list[Path]:
        """The folders of its packages."""
        return [(self.bundle / file).parent for file in self.spec.files if file.endswith("Manifest.json")]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum((self.bundle / file).stat().st_size for file in self.spec.files)

    def operators(self) -> dict[str, int]:
        """Operators of all its packages together."""
        from coreml_interpreter.package import Package

        counts: dict[str, int] = {}
        for package in self.packages:
            for function in Package(package).functions.values():
                for operation in function.operations:
                    counts[operation.type] = counts.get(operation.type, 0) + 1
        return counts


@pytest.fixture(scope="session")
def checkpoint_of(
    tiny_sd_checkpoint: Callable[[str], Path],
    tiny_controlnet: Callable[..., Path],
    tiny_t2i_adapter: Callable[..., Path],
    tiny_ip_adapter: Callable[..., Path],
) -> Any:
    """Factory: the checkpoint called "emoji", "sd1", "sd2", or "controlled": "sd1" with a ControlNet.

    "adapted" and "prompted" are "sd1-small" with T2I-Adapters, and with IP-Adapters.
    """

    def find(model: str) -> Any:
        if model in ("adapted", "prompted"):
            small = open_checkpoint(str(tiny_sd_checkpoint("sd1-small")))
            if model == "adapted":
                return small.with_t2i_adapters([str(tiny_t2i_adapter(kind=kind)) for kind in ("full", "grey")])
            return small.with_ip_adapters([str(tiny_ip_adapter(kind=kind)) for kind in ("plain", "plus")])
        if model == "controlled":
            return open_checkpoint(str(tiny_sd_checkpoint("sd1"))).with_controlnets([str(tiny_controlnet())])
        return open_checkpoint("emoji" if model == "emoji" else str(tiny_sd_checkpoint(model)))

    return find


@pytest.fixture(scope="session")
def bundle_of(
    exported: Callable[..., Path],
    controlled_bundle: Callable[..., Path],
    adapted_bundle: Callable[..., Path],
    image_prompt_bundle: Callable[..., Path],
    portable_bundle: Callable[[str], Path],
) -> Callable[[str], Path]:
    """Factory: a bundle with the portable graphs of a model; shared, so copy it before changing it."""

    def find(model: str) -> Path:
        if model == "controlled":
            return controlled_bundle()
        if model in ("adapted", "prompted"):
            return adapted_bundle() if model == "adapted" else image_prompt_bundle()
        return exported("emoji") if model == "emoji" else portable_bundle(model)

    return find


@pytest.fixture(scope="session")
def lowered(shared_folder: Path, bundle_of: Callable[[str], Path]) -> Callable[..., Lowered]:
    """Factory: a component of a model as packages, made once a session.

    `lowered("emoji", "unet", "fp16", deployment_target="iOS18", chunks=2)`; sizes by `buckets`.
    """

    def make(
        model: str,
        component: str,
        precision: str = "fp32",
        *,
        buckets: Any = ((64, 64),),
        keep: Any = (),
        **options: Any,
    ) -> Lowered:
        key = repr((model, component, precision, buckets, keep, sorted(options.items())))
        bundle = shared_folder / f"coreml-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        record, source = bundle / "spec.json", bundle_of(model)
        with FileLock(f"{bundle}.lock"):
            if not record.is_file():
                target = CoreMlTarget(**options)
                (bundle / component).mkdir(parents=True, exist_ok=True)
                for file in ("model.onnx", "model.onnx_data"):
                    shutil.copy(source / component / file, bundle / component)
                graph = in_form(bundle / component / "model.onnx", target.form(precision), keep)
                spec = target.lower(
                    Lowering(
                        component=component,
                        role=role_of_folder(component),
                        graph=graph,
                        bundle=bundle,
                        precision=precision,
                        buckets=buckets,
                    )
                )
                record.write_text(json.dumps({"spec": to_json(spec), "graph": graph.name}))
        saved = json.loads(record.read_text())
        return Lowered(from_json(EngineSpec, saved["spec"]), bundle, bundle / component / saved["graph"])

    return make


def in_form(portable: Path, form: Any, keep: Any = ()) -> Path:
    """The graph in the form that a target wants, all weights quantized but those of the nodes in `keep`."""
    if form.label == "fp32":
        return portable
    model = ir.load(portable)
    floats = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16}[form.floats]
    if form.quantized:
        sites = [site for site in quantizable(model.graph) if site.name not in keep]
        ranges = _ranges(portable, sites) if form.activations else {}
        Quantize(
            nodes=frozenset(site.name for site in sites),
            weights=form.weights,
            activations=form.activations,
            ranges=ranges,
            block=form.block,
            floats=floats,
        )(model)
    if form.floats == "fp16":
        HalfPrecision()(model)
    path = portable.with_name(f"model.{form.label}.onnx")
    save_graph(model, portable.parent, path.name)
    return path


def _ranges(portable: Path, sites: Any) -> dict[str, tuple[float, float]]:
    """The smallest and the largest number of every activation, over two calls on noise."""
    model = ir.load(portable)
    names = sorted({site.activation_value.name for site in sites if site.activation is not None})
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(values[name] for name in names if name in values)
    path = portable.with_name("observed.onnx")
    ir.save(model, path)
    session = onnxruntime.InferenceSession(str(path))
    path.unlink()
    found: dict[str, tuple[float, float]] = {}
    for seed in (0, 1):
        feeds = feeds_for(model.graph.inputs, seed)
        seen = {**feeds, **dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))}
        for name in names:
            low, high = found.get(name, (0.0, 0.0))
            found[name] = min(low, float(seen[name].min())), max(high, float(seen[name].max()))
    return found


def feeds_for(inputs: Any, seed: int = 0, sizes: Any = None) -> dict[str, np.ndarray]:
    """Inputs as they come in a pipeline: noise, a timestep of 981, a few tokens and the end token behind."""
    generator = np.random.default_rng(seed)
    sizes = {"batch": 2, "height": 64, "width": 64, "sequence": 77} | (sizes or {})
    feeds = {}
    for value in inputs:
        symbols = [ir.SymbolicDim(str(getattr(size, "value", size))) for size in value.shape]
        shape = [int(symbol.evaluate(sizes)) for symbol in symbols]
        if value.name == "timestep":
            feeds[value.name] = np.array([981.0], np.float32)
        elif value.name == "input_ids":
            ids = np.full(shape, 4294, np.int32)
            ids[:, 0] = 4293
            ids[:, 1:6] = generator.integers(0, 4000, (shape[0], 5))
            feeds[value.name] = ids
        else:
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
    return feeds


@pytest.fixture(scope="session")
def torch_outputs(checkpoint_of: Callable[[str], Any]) -> Callable[..., dict[str, np.ndarray]]:
    """PyTorch's answer: `torch_outputs("emoji", "unet", feeds)`."""
    import torch

    modules: dict[tuple[str, str], Any] = {}

    def compute(model: str, name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        checkpoint = checkpoint_of(model)
        component = checkpoint.component(name)
        if (model, name) not in modules:
            modules[model, name] = resolve(component.wrapper)(checkpoint.load(name), component).eval()
        with torch.no_grad():
            results = modules[model, name](*(torch.from_numpy(feeds[spec.name]) for spec in component.inputs))
        return {spec.name: result.numpy() for spec, result in zip(component.outputs, results, strict=True)}

    return compute


@pytest.fixture(scope="session")
def psnr() -> Callable[[np.ndarray, np.ndarray], float]:
    """Decibels over the range of what was expected."""
    return lambda expected, got: float(
        20 * np.log10(np.ptp(expected)) - 10 * np.log10(max(np.mean((expected - got) ** 2, dtype=np.float64), 1e-30))
    )


@pytest.fixture(scope="session")
def make_feeds() -> Callable[..., dict[str, np.ndarray]]:
    """Inputs for the tensors of a spec: `make_feeds(spec.inputs, seed=0, sizes={"height": 72})`."""
    return feeds_for
