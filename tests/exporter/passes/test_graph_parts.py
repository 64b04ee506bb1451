"""Graphs that are cut out of one graph."""

import onnx_ir as ir

from diffoundry.exporter.passes.graph_parts import Cut, extract


def test_weights_keep_their_order():
    """onnx_ir collects them in a set, in whose order two exports would differ."""
    names = [f"w{index}" for index in range(40)]
    constants = ", ".join(f"float[1] {name} = {{{index}}}" for index, name in enumerate(names))
    sums = "\n".join(f"x{index + 1} = Add (x{index}, {name})" for index, name in enumerate(names))
    text = f'<ir_version: 10, opset_import: ["": 23]> g (float[1] x0) => (float[1] x40) <{constants}> {{ {sums} }}'
    model = ir.from_onnx_text(text)
    end = next(value for node in model.graph for value in node.outputs if value.name == "x30")
    part = extract(model, Cut(name="inner", outputs=[end], inputs=list(model.graph.inputs)), last=True)
    assert list(part.model.graph.initializers) == names[:30]
