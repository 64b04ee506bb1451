"""Lowers components of small models once a session, and asks PyTorch and ONNX Runtime for the same numbers."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from filelock import FileLock

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.quantize import Quantize
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import DimSpec, EngineSpec
from diffoundry.runtime.engines.plugins import resolve
from diffoundry.runtime.engines.protocol import EngineOptions
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.openvino.build.target import OpenVinoTarget
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.run.devices import core
from diffoundry.targets.openvino.run.engine import OpenVinoEngine

DIMS = {"batch": DimSpec(), "height": DimSpec(min=8, multiple_of=8), "width": DimSpec(min=8, multiple_of=8)}

PLAIN = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
"""Left alone, OpenVINO rounds activations to int8 before products with int8 weights."""


@pytest.fixture(scope="session")
def lowered(
    shared_folder: Path, exported: Callable[..., Path], tiny_sd_checkpoint: Callable[[str], Path]
) -> Callable[..., tuple[Path, EngineSpec]]:
    """Factory: the file and the spec of a component of "emoji", "sd1" or "sd2", made once a session.

    `lowered("emoji", "unet", "int8", buckets=((64, 64),))`
    """

    def make(model: str, component: str, precision: str = "fp32", buckets: Any = ()) -> tuple[Path, EngineSpec]:
        name = f"openvino-{model}-{component}-{precision}-{'-'.join(str(size) for pair in buckets for size in pair)}"
        bundle = shared_folder / name
        record = bundle / "spec.json"
        with FileLock(f"{bundle}.lock"):
            if not record.is_file():
                source = exported("emoji" if model == "emoji" else tiny_sd_checkpoint(model)) / component
                graph = _in_form(source, bundle / component, precision)
                work = Lowering(
                    component=component,
                    role=role_of_folder(component),
                    graph=graph,
                    bundle=bundle,
                    precision=precision,
                    dims=DIMS,
                    buckets=buckets,
                )
                record.write_text(json.dumps(to_json(OpenVinoTarget().lower(work))))
        spec = from_json(EngineSpec, json.loads(record.read_text()))
        return bundle / spec.files[0], spec

    return make


def _in_form(source: Path, folder: Path, precision: str) -> Path:
    """The graph that the target asks for, every weight quantized where any is, and every activation to [-8, 8]."""
    form = OpenVinoTarget().form(precision)
    folder.mkdir(parents=True)
    if not form.quantized:
        for file in ("model.onnx", "model.onnx_data"):
            shutil.copy(source / file, folder)
        return folder / "model.onnx"
    model = ir.load(source / "model.onnx")
    sites = quantizable(model.graph)
    ranges = {site.activation_value.name: (-8.0, 8.0) for site in sites if site.activation_value is not None}
    nodes = frozenset(site.name for site in sites)
    Quantize(nodes=nodes, weights=form.weights, activations=form.activations, ranges=ranges, block=form.block)(model)
    save_graph(model, folder, f"model.{form.label}.onnx")
    return folder / f"model.{form.label}.onnx"


@pytest.fixture(scope="session")
def open_engine(lowered: Callable[..., Any]) -> Callable[..., OpenVinoEngine]:
    """Factory: the engine of a lowered component; arguments as `lowered`, and those of `EngineOptions` by name."""

    def make(model: str, component: str, precision: str = "fp32", buckets: Any = (), **options: Any) -> OpenVinoEngine:
        path, spec = lowered(model, component, precision, buckets)
        return OpenVinoEngine(path, spec, EngineOptions(**{"device": "cpu", **options}))

    return make


@pytest.fixture(scope="session")
def feeds_for() -> Callable[..., dict[str, np.ndarray]]:
    """Factory: seeded inputs of a component: noise, a fraction of a timestep, tokens."""

    def make(spec: EngineSpec, seed: int = 0, *, batch: int = 2, height: int = 64, width: int = 64) -> Any:
        generator = np.random.default_rng(seed)
        sizes = {"batch": batch, "sequence": 77, "height": height, "width": width}
        sizes |= {f"{name}/8": sizes[name] // 8 for name in ("height", "width")}
        feeds = {}
        for tensor in spec.inputs:
            shape = [size if isinstance(size, int) else sizes[size] for size in tensor.shape]
            if tensor.name == "input_ids":
                feeds[tensor.name] = generator.integers(0, 4294, shape).astype(np.int32)
            elif tensor.name == "timestep":
                feeds[tensor.name] = np.array([481.5 + seed], np.float32)
            else:
                feeds[tensor.name] = generator.standard_normal(shape).astype(np.float32)
        return feeds

    return make


@pytest.fixture(scope="session")
def torch_outputs(tiny_sd_checkpoint: Callable[[str], Path]) -> Callable[..., dict[str, np.ndarray]]:
    """PyTorch's answer in fp32: `torch_outputs("emoji", "unet", feeds)`."""
    import torch

    modules: dict[tuple[str, str], Any] = {}

    def compute(model: str, name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        checkpoint = open_checkpoint("emoji" if model == "emoji" else str(tiny_sd_checkpoint(model)))
        component = checkpoint.component(name)
        if (model, name) not in modules:
            modules[model, name] = resolve(component.wrapper)(checkpoint.load(name), component).eval()
        with torch.inference_mode():
            outputs = modules[model, name](*(torch.from_numpy(feeds[spec.name]) for spec in component.inputs))
        return {spec.name: output.numpy() for spec, output in zip(component.outputs, outputs, strict=True)}

    return compute


@pytest.fixture(scope="session")
def rms() -> Callable[[np.ndarray, np.ndarray], float]:
    """RMS of the difference over the RMS of what is expected."""
    return lambda got, expected: float(np.sqrt(np.mean((got - expected) ** 2.0) / np.mean(expected**2.0)))


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., ov.Model]:
    """Factory: an ONNX graph written as text, as OpenVINO imports it.

    `imported(text, {"w": array})`: inputs with an array become initializers. Its numbers by ONNX Runtime are those
    that `same_numbers` expects.
    """

    def make(text: str, weights: dict[str, np.ndarray]) -> ov.Model:
        model = ir.from_onnx_text(text)
        for name, array in weights.items():
            value = next(value for value in model.graph.inputs if value.name == name)
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(array, name=name)
            model.graph.register_initializer(value)
        onnx.save(ir.to_proto(model), tmp_path / "model.onnx")
        return ov.convert_model(tmp_path / "model.onnx")

    return make


@pytest.fixture
def same_numbers(tmp_path: Path) -> Callable[..., None]:
    """Asserts that a changed model computes what ONNX Runtime makes of the graph that `imported` wrote."""

    def check(model: ov.Model, feeds: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
        model.validate_nodes_and_infer_types()
        compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **PLAIN})
        for got, expected in zip(compiled(feeds).values(), session.run(None, feeds), strict=True):
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()

    return check


@pytest.fixture(scope="session")
def operators() -> Callable[[ov.Model], Counter[str]]:
    """Number of operators of every type in a model."""
    return lambda model: Counter(node.get_type_name() for node in model.get_ops())
