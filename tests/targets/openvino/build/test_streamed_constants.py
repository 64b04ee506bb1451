"""Constants that are read while the model is written: the same model as with all of them in memory."""

import re
import shutil

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from diffoundry.exporter.passes.quantizable import quantizable
from diffoundry.exporter.passes.quantize import Quantize
from diffoundry.exporter.steps.graph_files import save_graph
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.openvino import streamed_constants
from diffoundry.targets.openvino.build import target
from diffoundry.targets.openvino.build.target import OpenVinoTarget
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.streamed_constants import NotStreamedError, StreamedConstants

NUMBERED = re.compile(r"_\d+")
"""OpenVINO numbers nodes as it makes them."""

PRODUCT = """<ir_version: 10, opset_import: ["" : 23]>
g (float[batch,64] x) => (float[batch,64] y) { y = MatMul(x, weight) }"""
SCALED = """<ir_version: 10, opset_import: ["" : 23]>
g (float[batch,8,9,9] x) => (float[batch,8,9,9] y)
{ c = Conv<pads=[1,1,1,1]>(x, weight) y = Mul(c, scale) }"""

FOLDED = """<ir_version: 10, opset_import: ["" : 23]>
g (float[batch,64] x) => (float[batch,64] y)
{ s = MatMul(start, weight) r = Sigmoid(s) o = MatMul(r, other) m = MatMul(x, last) y = Add(m, o) }"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Weights of tiny networks are streamed."""
    monkeypatch.setattr(streamed_constants, "_SMALLEST", 1024)


@pytest.fixture
def held(monkeypatch):
    """Context in which all constants are held in memory."""

    class Held(StreamedConstants):
        def check(self, _model):
            raise NotStreamedError

    def hold():
        monkeypatch.setattr(target, "StreamedConstants", Held)

    return hold


@pytest.fixture
def filled(monkeypatch):
    """Numbers of constants that were filled, call by call."""
    counts = []
    fill = StreamedConstants.fill

    def count(self, path):
        fill(self, path)
        counts.append(self._expected)

    monkeypatch.setattr(StreamedConstants, "fill", count)
    return counts


def lower(folder, precision, graph="model.onnx"):
    """Write the model of a component's graph; its .xml without numbers in names, and its .bin."""
    work = Lowering(
        component=folder.name,
        role=role_of_folder(folder.name),
        graph=folder / graph,
        bundle=folder.parent,
        precision=precision,
    )
    spec = OpenVinoTarget().lower(work)
    text, data = (folder.parent / file for file in spec.files)
    return NUMBERED.sub("_N", text.read_text()), data.read_bytes()


def write_graph(folder, text, **weights):
    folder.mkdir()
    model = ir.from_onnx_text(text)
    for node in model.graph:
        for value in node.inputs:
            if value.name in weights and value.const_value is None:
                value.const_value = ir.tensor(weights[value.name], name=value.name)
                value.shape, value.type = value.const_value.shape, ir.TensorType(ir.DataType.FLOAT)
                model.graph.register_initializer(value)
    ir.save(model, folder / "model.onnx", external_data="model.onnx_data", size_threshold_bytes=512)


@pytest.mark.slow_cases("unet")
@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder"])
def test_the_same_bytes(exported, tiny_sd_checkpoint, tmp_path, held, filled, component):
    folder = tmp_path / component
    shutil.copytree(exported(tiny_sd_checkpoint()) / component, folder)
    streamed = [lower(folder, precision) for precision in ("fp32", "bf16")]
    assert len(filled) == 2
    assert min(filled) > 10
    held()
    assert streamed == [lower(folder, precision) for precision in ("fp32", "bf16")]


@pytest.mark.slow_cases("unet")
@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_the_same_bytes_of_weights_in_integers(exported, tiny_sd_checkpoint, tmp_path, held, filled, component):
    """Joined and split layers too; scales of blocks are streamed as well."""
    folder = tmp_path / component
    shutil.copytree(exported(tiny_sd_checkpoint()) / component, folder)
    for weights in ("int8", "int4"):
        model = ir.load(folder / "model.onnx")
        nodes = frozenset(site.name for site in quantizable(model.graph))
        Quantize(nodes=nodes, weights=weights, block=8)(model)
        save_graph(model, folder, f"model.{weights}.onnx")
    streamed = [lower(folder, f"{one}-weights", f"model.{one}.onnx") for one in ("int8", "int4")]
    assert len(filled) == 2
    assert min(filled) > 10
    held()
    assert streamed == [lower(folder, f"{one}-weights", f"model.{one}.onnx") for one in ("int8", "int4")]


def test_weights_that_halves_do_not_hold(tmp_path, held, filled):
    """OpenVINO keeps them in float32."""
    write_graph(tmp_path / "unet", PRODUCT, weight=np.full((64, 64), 1e-9, np.float32))
    text, data = lower(tmp_path / "unet", "bf16")
    assert filled == []
    assert np.full((64, 64), 1e-9, np.float32).tobytes() in data
    held()
    assert lower(tmp_path / "unet", "bf16") == (text, data)


def test_weights_that_openvino_computes_with(tmp_path, held, filled):
    """It multiplies a convolution's weight by the scale after it."""
    generator = np.random.default_rng(0)
    weights = {
        "weight": generator.standard_normal((8, 8, 3, 3), np.float32),
        "scale": generator.standard_normal((8, 1, 1), np.float32),
    }
    write_graph(tmp_path / "unet", SCALED, **weights)
    text, data = lower(tmp_path / "unet", "fp32")
    x = generator.standard_normal((2, 8, 9, 9), np.float32)
    compiled = ov.Core().compile_model(tmp_path / "unet/openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (expected,) = onnxruntime.InferenceSession(tmp_path / "unet/model.onnx").run(None, {"x": x})
    np.testing.assert_allclose(compiled(x)[0], expected, atol=1e-5)
    held()
    assert lower(tmp_path / "unet", "fp32") == (text, data)


def test_weights_of_constants_are_folded_with_their_numbers(tmp_path, filled):
    """As those of an embedded time that is always the same: what OpenVINO makes of them is small, and holds no mark."""
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal((64, 64), np.float32) for name in ("weight", "other", "last")}
    write_graph(tmp_path / "unet", FOLDED, start=generator.standard_normal((1, 64), np.float32), **weights)
    lower(tmp_path / "unet", "fp32")
    assert filled == [1]
    x = generator.standard_normal((2, 64), np.float32)
    compiled = ov.Core().compile_model(tmp_path / "unet/openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (expected,) = onnxruntime.InferenceSession(tmp_path / "unet/model.onnx").run(None, {"x": x})
    np.testing.assert_allclose(compiled(x)[0], expected, atol=1e-4)


def test_a_lost_mark_is_found(tmp_path):
    write_graph(tmp_path / "unet", PRODUCT, weight=np.ones((64, 64), np.float32))
    with StreamedConstants() as streamed:
        model = target._imported(tmp_path / "unet/model.onnx", streamed)
        streamed.check(model)
        path = tmp_path / "unet/openvino_model.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        path.with_suffix(".bin").write_bytes(bytes(path.with_suffix(".bin").stat().st_size))
        with pytest.raises(NotStreamedError, match="0 of 1 constants found"):
            streamed.fill(path)
