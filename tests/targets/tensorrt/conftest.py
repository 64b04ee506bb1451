"""Small graphs for TensorRT, and builds of them by the real TensorRT for RTX, each made once a session."""

import json
import shutil

import onnx_ir as ir
import pytest
from fake_cuda import FakeCuda
from filelock import FileLock
from rig import Rig
from small_graphs import in_form, make_block

from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import DimSpec, EngineSpec
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.tensorrt.build.target import RTXTarget
from diffoundry.targets.tensorrt.run.open_plan import open_library
from diffoundry.targets.tensorrt.sdk import RTX, TENSORRT

DIMS = {"batch": DimSpec(), "height": DimSpec(min=8, multiple_of=8), "width": DimSpec(min=8, multiple_of=8)}


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and the library that runs on it")


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch):
    """A folder for plans of this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "diffoundry/tensorrt"


@pytest.fixture
def block_work(tmp_path):
    """Factory: the block as a component "unet" to lower, in a precision's form."""

    def make(precision="fp32", *, buckets=((64, 64),), **more):
        folder = tmp_path / "unet"
        folder.mkdir(exist_ok=True)
        form = RTXTarget().form(precision)
        name = "model.onnx" if form.label == "fp32" else f"model.{form.label}.onnx"
        save_graph(in_form(make_block(), form), folder, name)
        given = {"dims": DIMS, "buckets": buckets} | more
        return Lowering(
            component="unet", role="denoiser", graph=folder / name, bundle=tmp_path, precision=precision, **given
        )

    return make


@pytest.fixture(scope="session")
def portable(portable_bundle):
    """Factory: the portable graph's file of a component of a tiny checkpoint; shared, so never write beside it."""

    def make(component, model="sd1"):
        return portable_bundle(model) / component / "model.onnx"

    return make


@pytest.fixture(scope="session")
def built(shared_folder, portable):
    """Factory: the spec of a component of a tiny checkpoint, built for one size and one GPU by TensorRT for RTX."""

    def make(component, precision, size=64, model="sd1"):
        folder = shared_folder / f"rtx-{model}-{component}-{precision}-{size}"
        record = folder / "spec.json"
        with FileLock(f"{folder}.lock"):
            if not record.is_file():
                spec = _build(portable(component, model), folder, component, precision, size)
                record.write_text(json.dumps(to_json(spec)))
        return from_json(EngineSpec, json.loads(record.read_text()))

    return make


def _build(source, folder, component, precision, size):
    (folder / component).mkdir(parents=True)
    target = RTXTarget(compute_capabilities=("sm89",))
    form = target.form(precision)
    name = "model.onnx" if form.label == "fp32" else f"model.{form.label}.onnx"
    save_graph(in_form(ir.load(source), form), folder / component, name)
    work = Lowering(
        component=component,
        role=role_of_folder(component),
        graph=folder / component / name,
        bundle=folder,
        precision=precision,
        dims=DIMS,
        buckets=((size, size),),
    )
    spec = target.lower(work)
    for file in spec.files:
        (folder / file).unlink()
    shutil.rmtree(folder / component)
    return spec


@pytest.fixture
def block_graph(tmp_path):
    """The block in fp32, as a file without anything beside it."""
    path = tmp_path / "block.onnx"
    ir.save(make_block(), path)
    return path


@pytest.fixture
def rig(block_graph, tmp_path):
    """Factory: a machine of fakes with a plan of the block."""

    def make(sdk=TENSORRT, **machine):
        return Rig(block_graph, tmp_path, sdk, FakeCuda(**machine))

    return make


@pytest.fixture(scope="session")
def rtx():
    """The real TensorRT for RTX in this process, with the log that it keeps."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    return open_library(RTX)
