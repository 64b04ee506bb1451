"""Small graphs for TensorRT, and builds of them by the real TensorRT for RTX, each made once a session."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from filelock import FileLock
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.exporter.graph_files import save_graph
from diffoundry.exporter.passes.half_precision import HalfPrecision
from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.quantize import Quantize
from diffoundry.runtime.records import from_json, to_json
from diffoundry.runtime.specs import DimSpec, EngineSpec
from diffoundry.targets.base import Lowering
from diffoundry.targets.tensorrt.flavour import RTX
from diffoundry.targets.tensorrt.loading import open_library
from diffoundry.targets.tensorrt.target import RTXTarget

sys.path.insert(0, str(Path(__file__).parent / "support"))  # a folder with `fake_trt` and `fake_cuda`

_BLOCK = """
<ir_version: 10, opset_import: ["": 23]>
block (
  float[batch, 4, "height/8", "width/8"] sample,
  float[32, 4, 3, 3] conv_in_weight, float[32] conv_in_bias, float[32] norm_weight, float[32] norm_bias,
  float[32, 32, 3, 3] conv_mid_weight, float[32] conv_mid_bias,
  float[32, 32] to_q_weight, float[32, 32] to_k_weight, float[32, 32] to_v_weight, float[32, 32] to_out_weight,
  float[4, 32, 3, 3] conv_out_weight, float[4] conv_out_bias
) => (float[batch, 4, "height/8", "width/8"] out_sample)
<int64[3] to_tokens = {0, 32, -1}, int64[4] to_heads = {0, 0, 2, 16}, int64[3] from_heads = {0, 0, 32}>
{
  c = Conv <pads = [1, 1, 1, 1]> (sample, conv_in_weight, conv_in_bias)
  n = GroupNormalization <num_groups = 8, epsilon = 0.00001> (c, norm_weight, norm_bias)
  s = Sigmoid (n)
  a = Mul (n, s)
  m = Conv <pads = [1, 1, 1, 1]> (a, conv_mid_weight, conv_mid_bias)
  f = Reshape (m, to_tokens)
  t = Transpose <perm = [0, 2, 1]> (f)
  q = MatMul (t, to_q_weight)   k = MatMul (t, to_k_weight)   v = MatMul (t, to_v_weight)
  q4 = Reshape (q, to_heads)    k4 = Reshape (k, to_heads)    v4 = Reshape (v, to_heads)
  qh = Transpose <perm = [0, 2, 1, 3]> (q4)
  kh = Transpose <perm = [0, 2, 1, 3]> (k4)
  vh = Transpose <perm = [0, 2, 1, 3]> (v4)
  y = Attention <scale = 0.25> (qh, kh, vh)
  yt = Transpose <perm = [0, 2, 1, 3]> (y)
  yf = Reshape (yt, from_heads)
  o = MatMul (yf, to_out_weight)
  ot = Transpose <perm = [0, 2, 1]> (o)
  ms = Shape (m)
  r = Reshape (ot, ms)
  h = Add (m, r)
  out_sample = Conv <pads = [1, 1, 1, 1]> (h, conv_out_weight, conv_out_bias)
}
"""

DIMS = {"batch": DimSpec(), "height": DimSpec(min=8, multiple_of=8), "width": DimSpec(min=8, multiple_of=8)}

_FLOATS = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU and the library that runs on it")


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch):
    """A folder for plans of this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "diffoundry/tensorrt"


def make_block():
    """One block of a UNet: convolutions, group norm with SiLU, attention of two heads of 16 channels."""
    model = ir.from_onnx_text(_BLOCK)
    generator = np.random.default_rng(0)
    while len(model.graph.inputs) > 1:
        value = model.graph.inputs.pop(1)
        shape = value.shape.numpy()
        array = generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) + (value.name == "norm_weight")
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
        value.metadata_props["diffoundry.weight"] = value.name
        model.graph.register_initializer(value)
    for number, node in enumerate(model.graph):
        node.name = f"block/{node.op_type}_{number}"
    ShapeInferencePass()(model)
    return model


def in_form(model, form, block=32):
    """A portable graph in the form that the target asks for; every activation is taken to lie between -3 and 3."""
    if form.quantized:
        sites = [s for s in quantizable(model.graph) if form.activations is None or s.activation is not None]
        if form.weights == "int4":
            sites = [s for s in sites if s.weight_value.const_value.shape[s.input_axis] % block == 0]
        names = {s.activation_value.name for s in sites if s.activation is not None}
        model = Quantize(
            nodes=frozenset(s.name for s in sites),
            weights=form.weights,
            activations=form.activations,
            ranges=dict.fromkeys(names, (-3.0, 3.0)) if form.activations else {},
            block=block,
            floats=_FLOATS[form.floats],
        )(model).model
    return model if form.floats == "fp32" else HalfPrecision(dtype=_FLOATS[form.floats])(model).model


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
        return Lowering(component="unet", graph=folder / name, bundle=tmp_path, precision=precision, **given)

    return make


@pytest.fixture(scope="session")
def portable(exported, tiny_sd_checkpoint):
    """Factory: the portable graph's file of a component of the tiny checkpoint; shared, so never write beside it."""

    def make(component):
        return exported(tiny_sd_checkpoint()) / component / "model.onnx"

    return make


@pytest.fixture(scope="session")
def built(shared_folder, portable):
    """Factory: the spec of a component of the tiny checkpoint, built for one size and one GPU by TensorRT for RTX."""

    def make(component, precision, size=64):
        folder = shared_folder / f"rtx-{component}-{precision}-{size}"
        record = folder / "spec.json"
        with FileLock(f"{folder}.lock"):
            if not record.is_file():
                spec = _build(portable(component), folder, component, precision, size)
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


@pytest.fixture(scope="session")
def rtx():
    """The real TensorRT for RTX in this process, with the log that it keeps."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    return open_library(RTX)
