"""Pieces of a graph compute the bits of the whole graph in ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffoundry.runtime.formats.onnx_pieces import OnnxPieces
from diffoundry.targets.onnxruntime.run.pieces import PieceSession

CPU = ["CPUExecutionProvider"]


def _settings():
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    return settings


def _in_pieces(path, most):
    return PieceSession(OnnxPieces(path), _settings(), CPU, path.parent, most)


def _float(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _save(path, nodes, inputs, outputs, weights=(), inner=()):
    tensors = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=tensors, value_info=inner)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("component", ["unet", "text_encoder", "vae_decoder"])
def test_the_bits_of_the_whole_graph(emoji_bundle, component):
    path = next((emoji_bundle / component).glob("model.onnxruntime.onnx"), emoji_bundle / component / "model.onnx")
    whole = ort.InferenceSession(str(path), _settings(), providers=CPU)
    split = _in_pieces(path, 1)
    assert len(split.pieces) > 5
    names = [node.name for node in whole.get_outputs()]
    described = [[(node.name, node.type) for node in one.get_inputs() + list(one.get_outputs())] for one in (whole,)]
    assert described[0] == [(one.name, one.type) for one in (*split.get_inputs(), *split.get_outputs())]
    generator = np.random.default_rng(0)
    for sizes in ({"batch": 2, "sequence": 77}, {"batch": 1, "sequence": 77, "height/8": 10, "width/8": 6}):
        feeds = {}
        for node in whole.get_inputs():
            shape = [side if isinstance(side, int) else sizes.get(side, 8) for side in node.shape]
            integers = node.type != "tensor(float)"
            array = generator.integers(0, 99, shape) if integers else generator.standard_normal(shape)
            feeds[node.name] = array.astype(np.int32 if node.type == "tensor(int32)" else np.float32)
        expected = whole.run(names, feeds)
        for got, wanted in zip(split.run(names, feeds), expected, strict=True):
            assert np.array_equal(got, wanted)


def test_a_sum_with_a_convolution_keeps_its_order_of_terms(tmp_path):
    """ONNX Runtime lets a convolution add the other term itself, in another order, if both have its own layout."""
    generator = np.random.default_rng(1)
    kernel = [(f"w{i}", generator.standard_normal((32, 32, 3, 3)).astype(np.float32)) for i in range(3)]
    bias = [(f"b{i}", generator.standard_normal(32).astype(np.float32)) for i in range(3)]
    conv = [
        helper.make_node("Conv", [source, f"w{i}", f"b{i}"], [made], pads=[1] * 4)
        for i, (source, made) in enumerate((("x", "a"), ("a", "c"), ("s", "d")))
    ]
    nodes = [conv[0], conv[1], helper.make_node("Add", ["c", "a"], ["s"]), conv[2]]
    nodes.append(helper.make_node("Add", ["s", "d"], ["y"]))
    size = (1, 32, 24, 24)
    inner = [_float(name, *size) for name in "acds"]
    path = _save(tmp_path / "m.onnx", nodes, [_float("x", *size)], [_float("y", *size)], kernel + bias, inner)
    split = _in_pieces(path, 1)
    assert [sorted(piece.feeds) for piece in split.pieces] == [["x"], ["a/handed"], ["s/handed"]]
    feeds = {"x": generator.standard_normal(size).astype(np.float32)}
    whole = ort.InferenceSession(str(path), _settings(), providers=CPU)
    assert np.array_equal(split.run(["y"], feeds)[0], whole.run(["y"], feeds)[0])


def test_constants_go_to_their_readers(tmp_path):
    """A weight that nodes make of constants is no value of an earlier piece."""
    weights = [("w", np.arange(4, dtype=np.float16)), ("n", np.array([4], np.int64))]
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "wide"], ["a"]),
        helper.make_node("Mul", ["a", "a"], ["m"]),
        helper.make_node("Add", ["m", "wide"], ["y"]),
    ]
    inner = [_float("a", 4), _float("m", 4), _float("wide", 4)]
    path = _save(tmp_path / "m.onnx", nodes, [_float("x", 4)], [_float("y", 4), _float("a", 4)], weights[:1], inner)
    split = _in_pieces(path, 1)
    assert [(piece.feeds, piece.outputs, piece.last) for piece in split.pieces] == [
        ({"x": "x"}, ("a",), ("x",)),
        ({"a": "a"}, ("y",), ()),
    ]
    x = np.ones(4, np.float32)
    y, a = split.run(["y", "a"], {"x": x})
    assert a.tolist() == [1, 2, 3, 4]
    assert y.tolist() == [1, 5, 11, 19]
    assert [piece.weights for piece in split.pieces] == [16, 16]


def test_a_graph_with_graphs_inside_is_one_piece(tmp_path):
    body = helper.make_graph([helper.make_node("Add", ["x", "x"], ["t"])], "b", [], [_float("t", 4)])
    flag = helper.make_tensor_value_info("f", TensorProto.BOOL, [])
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"]),
        helper.make_node("Add", ["a", "a"], ["c"]),
        helper.make_node("If", ["f"], ["d"], then_branch=body, else_branch=body),
        helper.make_node("Add", ["c", "d"], ["y"]),
    ]
    inner = [_float(name, 4) for name in "acd"]
    path = _save(tmp_path / "m.onnx", nodes, [_float("x", 4), flag], [_float("y", 4)], (), inner)
    split = _in_pieces(path, 1)
    assert len(split.pieces) == 1
    assert split.run(["y"], {"x": np.ones(4, np.float32), "f": np.array(True)})[0].tolist() == [6] * 4


@pytest.mark.parametrize("content", [b"", b"\x07", b"no graph at all", b"\x08\x08"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.onnx is no ONNX graph"):
        OnnxPieces(path)


def test_integers_are_counted_as_they_are_stored(tmp_path):
    weights = [("w", np.ones((6, 5), np.int8)), ("s", np.ones(5, np.float32)), ("n", np.array([6], np.int64))]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wide"], axis=1),
        helper.make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    path = _save(tmp_path / "m.onnx", nodes, [_float("x", 2, 6)], [_float("y", 2, 5)], weights)
    graph = OnnxPieces(path)
    assert (graph.integers, graph.floats) == (6 * 5, 4 * 5 + 8)
    assert graph.weights == 4 * (6 * 5 + 5) + 8
