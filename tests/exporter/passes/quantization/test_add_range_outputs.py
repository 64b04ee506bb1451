"""Outputs that report the largest numbers of a graph."""

import numpy as np
import onnx
import onnx_ir as ir

from diffoundry.exporter.passes.add_range_outputs import PEAK, AddRangeOutputs


def test_every_node_reports_the_largest_of_its_inputs_and_outputs(toy):
    model = toy.network()
    nodes = {node.name: node for node in model.graph}
    AddRangeOutputs()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    found = dict(zip([value.name for value in model.graph.outputs], toy.run(model), strict=True))
    assert set(found) == {"y"} | {f"{PEAK}{name}" for name in nodes}
    for name, node in nodes.items():
        seen = [toy.tensors[v.name] for v in (*node.inputs, *node.outputs) if v is not None and v.name in toy.tensors]
        assert found[f"{PEAK}{name}"] == max(np.abs(array).max() for array in seen), name


ATTENTION = """
<ir_version: 10, opset_import: ["": 23]>
g (float[1, 2, 5, 8] q, float[1, 2, 7, 8] k, float[1, 2, 7, 8] v) => (float[1, 2, 5, 8] y)
{ [attend] y = Attention (q, k, v) }
"""


def test_attention_reports_an_upper_bound_of_its_scores(toy):
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((1, 2, 5 if name == "q" else 7, 8)).astype(np.float32) for name in "qkv"}
    feeds["q"] *= 300
    model = ir.from_onnx_text(ATTENTION)
    AddRangeOutputs()(model)
    _, peak = toy.run(model, feeds)
    scores = np.abs(feeds["q"] @ feeds["k"].transpose(0, 1, 3, 2)).max() / np.sqrt(8)
    assert max(scores, np.abs(feeds["q"]).max()) <= peak <= 3 * scores
