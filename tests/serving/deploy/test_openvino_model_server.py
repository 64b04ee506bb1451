"""The folder for OpenVINO Model Server: its graph has the fields of the server, and OpenVINO GenAI runs it."""

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from diffoundry.runtime.bundle.bundle import Bundle
from diffoundry.runtime.cli.group import group
from diffoundry.runtime.errors import InputError
from diffoundry.serving.deploy.openvino_model_server import write_model_folder
from diffoundry.targets.openvino import import_openvino as vendor

_STREAMS = ("input_stream", "output_stream", "input_side_packet")


@pytest.fixture(scope="module")
def folder(emoji_openvino, tmp_path_factory):
    path = tmp_path_factory.mktemp("ovms") / "emoji"
    words = ["deploy", str(emoji_openvino), "--to", "openvino-model-server", "-o", str(path)]
    group.main(words, standalone_mode=False)
    return path


def _graph_class():
    """The messages of MediaPipe and of the server's image_gen_calculator.proto, as far as a graph for images uses them.

    Numbers and types: calculator.proto of MediaPipe, src/image_gen/image_gen_calculator.proto of the server.
    """
    text, repeated = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    kind = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    file = descriptor_pb2.FileDescriptorProto(
        name="graph.proto", package="mediapipe", syntax="proto2", dependency=["google/protobuf/any.proto"]
    )
    options = file.message_type.add(name="ImageGenCalculatorOptions")
    for number, name in enumerate(("models_path", "device", "plugin_config", "max_resolution"), 1):
        options.field.add(name=name, number=number, type=text, label=1)
    node = file.message_type.add(name="Node")
    for name, number in (("name", 1), ("calculator", 2)):
        node.field.add(name=name, number=number, type=text, label=1)
    for name, number in zip(_STREAMS, (3, 4, 5), strict=True):
        node.field.add(name=name, number=number, type=text, label=repeated)
    node.field.add(name="node_options", number=8, type=kind, type_name=".google.protobuf.Any", label=repeated)
    graph = file.message_type.add(name="CalculatorGraphConfig")
    graph.field.add(name="node", number=1, type=kind, type_name=".mediapipe.Node", label=repeated)
    for name, number in (("input_stream", 10), ("output_stream", 15)):
        graph.field.add(name=name, number=number, type=text, label=repeated)
    from google.protobuf import any_pb2

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool, message_factory.GetMessageClass(pool.FindMessageTypeByName("mediapipe.CalculatorGraphConfig"))


def test_the_graph_is_that_of_the_server(folder):
    pool, graph_class = _graph_class()
    text = (folder / "graph.pbtxt").read_text(encoding="utf-8")
    graph = text_format.Parse(text, graph_class(), descriptor_pool=pool)
    (node,) = graph.node
    assert node.calculator == "ImageGenCalculator"
    assert list(node.input_side_packet) == ["IMAGE_GEN_NODE_RESOURCES:pipes"]
    assert list(graph.input_stream) == list(node.input_stream) == ["HTTP_REQUEST_PAYLOAD:input"]
    assert list(graph.output_stream) == list(node.output_stream) == ["HTTP_RESPONSE_PAYLOAD:output"]
    options = message_factory.GetMessageClass(pool.FindMessageTypeByName("mediapipe.ImageGenCalculatorOptions"))()
    (packed,) = node.node_options
    options.ParseFromString(packed.value)
    assert (options.models_path, options.device) == ("./", "CPU")


@pytest.mark.slow
def test_openvino_genai_generates_the_same_from_folder_and_bundle(folder, emoji_openvino):
    assert vendor.ov  # imported first, without telemetry
    genai = pytest.importorskip("openvino_genai")
    assert not list(folder.rglob("*.onnx*"))
    images = []
    for path in (folder, emoji_openvino):
        pipeline = genai.Text2ImagePipeline(str(path), "CPU", INFERENCE_PRECISION_HINT="f32")
        made = pipeline.generate("red apple", height=64, width=64, num_inference_steps=2, rng_seed=1)
        images.append(np.array(made.data[0]))
    np.testing.assert_array_equal(*images)


def test_what_openvino_genai_does_not_know_is_refused(emoji_bundle, emoji_openvino, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"text_encoder of .* has no openvino_model\.xml; add it with 'diffoundry bu"):
        write_model_folder(Bundle(emoji_bundle), tmp_path)
    bundle = Bundle(emoji_openvino)
    for name, refusal in {
        "KandinskyPipeline": "is a KandinskyPipeline, but OpenVINO GenAI runs only StableDiffusionPipeline, ",
        "StableDiffusionControlNetPipeline": "is a StableDiffusionControlNetPipeline, but OpenVINO GenAI runs only ",
    }.items():
        bundle.model_index["_class_name"] = name
        with pytest.raises(InputError, match=refusal):
            write_model_folder(bundle, tmp_path)
    bundle.model_index["_class_name"] = "StableDiffusionPipeline"
    for name in ("LMSDiscreteScheduler", "DPMSolverMultistepScheduler"):
        monkeypatch.setattr(bundle, "read_object", lambda _, name=name: {"_class_name": name})
        with pytest.raises(InputError, match=f"has the scheduler {name}, but OpenVINO GenAI runs only DDIMScheduler, "):
            write_model_folder(bundle, tmp_path)
    assert not (tmp_path / "graph.pbtxt").exists()
