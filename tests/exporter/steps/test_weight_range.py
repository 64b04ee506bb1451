"""Weights beyond the range of fp16: named in the engine's entry, and told at the end of an export."""

from contextlib import nullcontext

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from diffoundry.exporter.cli.progress import tell_engine_notes
from diffoundry.exporter.steps.graph_names import WEIGHT_KEY
from diffoundry.exporter.steps.lower import write_engine
from diffoundry.exporter.steps.weight_range import describe_cut, weights_beyond
from diffoundry.runtime.bundle.manifest import Manifest
from diffoundry.runtime.bundle.specs import ComponentSpec, DimSpec, Recipe, Variant

GRAPH = """
<ir_version: 10, opset_import: ["": 23]>
g (float[batch, 4] x, float[4, 4] w, float[4] b, float[4] mask) => (float[batch, 4] y)
{ m = MatMul (x, w)  a = Add (m, b)  y = Add (a, mask) }
"""


def model(largest):
    graph = ir.from_onnx_text(GRAPH)
    arrays = {"w": np.full((4, 4), -largest), "b": np.ones(4), "mask": np.full(4, np.finfo(np.float32).min)}
    for value in tuple(graph.graph.inputs)[1:]:
        value.const_value = ir.tensor(arrays[value.name].astype(np.float32), name=value.name)
        graph.graph.inputs.remove(value)
        graph.graph.register_initializer(value)
        if value.name != "mask":
            value.metadata_props[WEIGHT_KEY] = f"decoder.{value.name}"
    ShapeInferencePass()(graph)
    return graph


@pytest.mark.parametrize(("largest", "found"), [(65504.0, ()), (65520.0, ("decoder.w",)), (np.inf, ())])
def test_finite_weights_beyond_fp16(largest, found):
    assert weights_beyond(model(largest), ir.DataType.FLOAT16) == found
    assert weights_beyond(model(largest), ir.DataType.BFLOAT16) == ()


def test_the_list_is_short():
    assert describe_cut(("a", "b", "c", "d"), ir.DataType.FLOAT16) == "4 beyond 65504: a, b, c and 1 more"


def test_an_engine_says_so(tmp_path, capsys):
    (tmp_path / "vae_decoder").mkdir()
    ir.save(model(1e6), tmp_path / "vae_decoder/model.onnx")

    def engine(precision):
        return write_engine(
            component="vae_decoder",
            role="vae_decoder",
            variant=Variant(target="onnxruntime", precision=precision),
            first=True,
            dims={"batch": DimSpec()},
            buckets=(),
            quantization=None,
            folder=str(tmp_path),
            phase=lambda _name: nullcontext(),
            progress=lambda _text: None,
        )

    half, full = engine("fp16"), engine("fp32")
    assert half.metadata["cut_weights"] == "1 beyond 65504: decoder.w"
    assert "cut_weights" not in full.metadata
    spec = ComponentSpec(role="vae_decoder", network="AutoencoderKL", graph=(), engines=(half, full))
    recipe = Recipe(model="x", source={}, variants=(), dims={}, opset=23)
    components = {"vae_decoder": spec}
    manifest = Manifest(format_version=5, diffoundry="x", family="x", recipe=recipe, components=components, files={})
    tell_engine_notes(manifest)
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith(
        "note: vae_decoder, onnxruntime fp16: weights were cut to the type's largest number (1 beyond 65504: decoder.w)"
    )
    assert told.count("note:") == 1
