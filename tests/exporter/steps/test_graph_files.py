"""Graphs on the disk: weights that do not fit are refused before the first is written."""

import errno
import shutil

import numpy as np
import onnx_ir as ir
import pytest

from diffoundry.exporter.jobs.storage import storage_sentence
from diffoundry.exporter.steps.graph_files import save_graph

GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
g (float[2, 1024] x) => (float[2, 1024] y) { y = Add (x, weight) }
"""


def make_graph(read):
    graph = ir.from_onnx_text(GRAPH)
    weight = next(value for node in graph.graph for value in node.inputs if value.name == "weight")
    weight.const_value = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape([1024]), name="weight")
    weight.type, weight.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1024])
    graph.graph.register_initializer(weight)
    return graph


def test_a_full_disk_is_found_first(tmp_path, monkeypatch):
    read = []
    usage = shutil.disk_usage(tmp_path)._replace(free=4000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(OSError, match="its weights take 4096 bytes, and 4000 bytes are free") as caught:
        save_graph(make_graph(lambda: read.append(1)), tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert read == []
    assert list(tmp_path.iterdir()) == []
    sentence = storage_sentence(caught.value, "unet", tmp_path)
    assert sentence.startswith(f"unet: no space left while writing {tmp_path / 'model.onnx_data'} (its weights take")


def test_each_weight_is_read_once(tmp_path):
    read = []

    def weight():
        read.append(1)
        return ir.tensor(np.arange(1024, dtype=np.float32))

    assert save_graph(make_graph(weight), tmp_path) == ("model.onnx", "model.onnx_data")
    assert read == [1]
    assert np.array_equal(np.fromfile(tmp_path / "model.onnx_data", np.float32), np.arange(1024))
