"""The files that a graph reads, in each place that onnx has for them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diffoundry.runtime.errors import BundleError
from diffoundry.runtime.formats.onnx_locations import check_graph_files, external_files


def _external(name: str, location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, location=location, offset=0, length=16)
    tensor.ClearField("raw_data")
    return tensor


def _graph(*nodes, tensors=(), sparse=()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], initializer=list(tensors), sparse_initializer=list(sparse))


def _everywhere() -> onnx.ModelProto:
    """A model with an external tensor in each place that onnx.proto has for one; none of them has to make sense."""
    inner = _graph(helper.make_node("Constant", [], ["c"], value=_external("c", "subgraph")))
    nodes = [
        helper.make_node("Constant", [], ["a"], value=_external("a", "attribute")),
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=_graph(tensors=[_external("e", "else")])),
        helper.make_node("Custom", [], ["z"], many=[_external("m", "tensors")], graphs=[_graph(tensors=[
            _external("n", "graphs")])]),
    ]  # fmt: skip
    sparse = helper.make_sparse_tensor(
        _external("values", "sparse values"), _external("indices", "sparse indices"), [8]
    )
    model = helper.make_model(_graph(*nodes, tensors=[_external("w", "weights")], sparse=[sparse]))
    body = [helper.make_node("Constant", [], ["f"], value=_external("f", "function"))]
    model.functions.append(helper.make_function("d", "F", [], ["f"], body, [helper.make_opsetid("", 20)]))
    model.training_info.add().algorithm.CopyFrom(_graph(tensors=[_external("t", "training")]))
    return model


def test_every_place_of_an_external_tensor(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(_everywhere().SerializeToString())
    assert external_files(path) == {
        "weights", "attribute", "subgraph", "else", "tensors", "graphs", "sparse values", "sparse indices", "function",
        "training",
    }  # fmt: skip


def test_a_graph_in_two_pieces_is_read_whole(tmp_path):
    """Protocol buffers join a message that occurs twice, and so does ONNX Runtime."""
    first = helper.make_model(_graph(tensors=[_external("a", "one")])).SerializeToString()
    second = onnx.ModelProto(graph=_graph(tensors=[_external("b", "two")])).SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(first + second)
    assert len(onnx.load_model_from_string(path.read_bytes()).graph.initializer) == 2
    assert external_files(path) == {"one", "two"}


def test_files_of_an_exported_bundle(exported, tiny_sd_checkpoint):
    bundle = exported(tiny_sd_checkpoint())
    for graph in bundle.glob("*/model*.onnx"):
        tensors = onnx.load(graph, load_external_data=False).graph.initializer
        expected = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
        assert expected
        assert external_files(graph) == expected


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"<net>", b"\x3a\xff\xff\xff\xff\x0flocation", b"\x3a\x0c\x2a\x20location ", b"\xff" * 99]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx is no ONNX graph"):
        external_files(path)


@pytest.mark.parametrize("location", ["extra", "../secret", "/etc/passwd", "sub/model.onnx_data", ""])
def test_files_that_the_manifest_lacks_are_refused(tmp_path, location):
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(_graph(tensors=[_external("w", location)])).SerializeToString())
    with pytest.raises(BundleError, match=r"in the file '.*', which the manifest does not list for it; do not trust"):
        check_graph_files(path, "unet/model.onnx", ("unet/model.onnx_data", "unet/other"))


def test_files_of_the_manifest_and_other_endings(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(_graph(tensors=[_external("w", "./data")])).SerializeToString())
    check_graph_files(path, "unet/model.onnx", ("unet/model.onnx", "unet/data"))
    with pytest.raises(BundleError, match=r"got the name 'unet/model\.ort', expected the ending \.onnx"):
        check_graph_files(path, "unet/model.ort", ("unet/data",))
