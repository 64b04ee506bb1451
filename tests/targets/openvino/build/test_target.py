"""Lowering: file names, the manifest entry, forms, and what is refused."""

import onnx_ir as ir
import pytest

from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.targets.base import Lowering, PrecisionFormat
from diffoundry.targets.openvino.build.target import OpenVinoTarget
from diffoundry.targets.openvino.import_openvino import ov
from diffoundry.targets.openvino.run.symbolic_sizes import default_sizes

TEXT = """<ir_version: 10, opset_import: ["" : 23{more}]>
g (float[batch,4] x) => (float[batch,4] y) {{ y = {op}(x) }}"""


@pytest.fixture
def work(tmp_path):
    """Factory: a graph of one operator as the component "unet"; arguments of `Lowering` by name."""

    def make(op="Relu", more="", **options):
        (tmp_path / "unet").mkdir(exist_ok=True)
        graph = tmp_path / "unet/model.onnx"
        ir.save(ir.from_onnx_text(TEXT.format(op=op, more=more)), graph)
        return Lowering(
            component="unet", role="denoiser", graph=graph, bundle=tmp_path, **{"precision": "fp32", **options}
        )

    return make


@pytest.mark.parametrize(
    ("options", "stem"),
    [
        ({}, "openvino_model"),
        ({"precision": "bf16"}, "openvino_model"),
        ({"precision": "bf16", "first": False}, "openvino_model.bf16"),
    ],
)
def test_the_first_precision_gets_the_vendors_names(work, tmp_path, options, stem):
    spec = OpenVinoTarget().lower(work(**options))
    assert spec.files == (f"unet/{stem}.xml", f"unet/{stem}.bin")
    assert all((tmp_path / file).is_file() for file in spec.files)
    assert ov.Core().read_model(tmp_path / spec.files[0]).input(0).get_any_name() == "x"


def test_the_manifest_entry(work):
    shown = []
    spec = OpenVinoTarget(winograd=False).lower(work(buckets=((512, 512), (768, 512)), progress=shown.append))
    assert (spec.target, spec.precision) == ("openvino", "fp32")
    assert spec.options == {"winograd": False, "buckets": [[512, 512], [768, 512]]}
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in spec.inputs] == [("x", "float32", ("batch", 4))]
    assert spec.built_with == {"openvino": ov.__version__.partition("-")[0]}
    assert shown == ["import", "write"]


def test_the_engine_knows_the_sizes_of_the_checkpoint(work, tmp_path):
    """Layers of free sizes are judged by them when an engine is opened."""
    asked = work()
    model = ir.load(asked.graph)
    model.graph.inputs[0].shape = ir.Shape([ir.SymbolicDim("batch"), ir.SymbolicDim("height/8")])
    model.graph.outputs[0].shape = model.graph.inputs[0].shape
    ir.save(model, asked.graph)
    (tmp_path / "unet/config.json").write_text('{"sample_size": 96}')
    spec = OpenVinoTarget().lower(asked)
    assert spec.options["default_sizes"] == {"height": 768}
    assert default_sizes(spec) == {"batch": 1, "height": 768, "width": 512, "sequence": 77}


def test_forms():
    target = OpenVinoTarget()
    assert target.form("bf16") == target.form("fp16") == target.form("fp32") == PrecisionFormat()
    assert target.form("int8") == PrecisionFormat(weights="int8", activations="uint8")
    with pytest.raises(InputError, match="precision: got 'fp8', expected one of fp32, bf16, .* for target 'openvino'"):
        target.form("fp8")


@pytest.mark.parametrize(
    ("op", "more", "reason"),
    [
        (
            "com.microsoft.Gelu",
            ', "com.microsoft" : 1',
            "needs operators of 'com.microsoft', OpenVINO reads those of ONNX",
        ),
        ("Relu", "", "needs opset 99 of ONNX, OpenVINO takes up to 23"),
    ],
)
def test_graphs_that_openvino_does_not_take(work, op, more, reason):
    asked = work(op, more)
    if "opset 99" in reason:
        model = ir.load(asked.graph)
        model.opset_imports[""] = 99
        ir.save(model, asked.graph)
    with pytest.raises(EngineError, match=f"target 'openvino' cannot take .*model.onnx: the graph {reason}"):
        OpenVinoTarget().lower(asked)


def test_an_operator_that_the_importer_does_not_know(work):
    with pytest.raises(EngineError, match=r"target 'openvino' cannot take .*model.onnx: (.|\n)*NoSuchOperator"):
        OpenVinoTarget().lower(work("NoSuchOperator"))
