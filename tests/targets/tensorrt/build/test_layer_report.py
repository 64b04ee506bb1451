"""The build log's reader, on a log recorded from TensorRT for RTX 1.7: an int8 block with two profiles."""

import re
from pathlib import Path

import pytest

from diffoundry.runtime.errors import EngineError
from diffoundry.targets.tensorrt.build.engine_stats import describe_structure
from diffoundry.targets.tensorrt.build.layer_report import KNOWN_VERSIONS, interesting, read_layers, read_memory

LOG = (Path(__file__).parents[1] / "recorded/build_log_rtx_1_7.txt").read_text().split("\f")
VERSION = "1.7.1.116"


def test_the_installed_version_is_one_that_is_known(rtx):
    assert ".".join(rtx.trt.__version__.split(".")[:2]) in KNOWN_VERSIONS


def test_layers_have_kind_types_and_origins():
    layers = read_layers(LOG, VERSION)
    assert [sum(layer.profile == profile for layer in layers) for profile in (0, 1)] == [18, 17]
    convolutions = [layer for layer in layers if layer.kind == "correlation" and layer.profile == 0]
    assert len(convolutions) == 3
    assert all(layer.inputs[0] == "Int8" and layer.constants[0] == "Int8" for layer in convolutions)
    attention = next(layer for layer in layers if layer.name == "_gemm_mha_v2")
    assert attention.inputs == ("Half", "Half", "Half")
    assert any("MatMul" in node for node in attention.nodes) or "block/Attention_16" in attention.nodes
    assert not any(re.search(r"myl\d|\[profile", layer.name) for layer in layers if layer.kind != "shape_call")


def test_memory_is_read_by_profile():
    memory = read_memory(LOG, VERSION)
    assert memory.scratch == memory.activations == (8421376, 8249344)
    assert memory.weights == 18704


def test_the_structure_is_counted_by_profile():
    metadata = describe_structure(LOG, VERSION, ["free", "64x64"])
    assert metadata == {
        "structure": {
            "free": {
                "layers": 18,
                "attentions_fused": 1,
                "group_norms_fused": 1,
                "convolutions": {"Int8": 3},
                "gemms": {"Int8": 2},
                "scratch_bytes": 8421376,
                "activation_bytes": 8421376,
            },
            "64x64": {
                "layers": 17,
                "attentions_fused": 1,
                "group_norms_fused": 1,
                "convolutions": {"Int8": 3},
                "gemms": {"Int8": 2},
                "scratch_bytes": 8249344,
                "activation_bytes": 8249344,
            },
        },
        "weight_bytes": 18704,
    }


def test_only_what_is_read_is_kept():
    assert all(interesting(message) for message in LOG)
    assert not interesting("Loaded engine size: 3 MiB")
    assert not interesting("Layers: 17")


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ([m for m in LOG if not m.startswith("Layers")], "got no message with the layers, expected the form of 1.7"),
        ([m for m in LOG if "Scratch" not in m], "got no message with 'Max Scratch Memory'"),
        ([m for m in LOG if "Weights" not in m], "got no message with 'Total Weights Memory'"),
        ([m.replace("LayerType", "Kind") for m in LOG], "cannot make out the layer 'Name: __mye"),
        ([re.sub(r"_myl(\d+)_\d+, Layer", r", Layer", m) for m in LOG], "without a serial number"),
    ],
    ids=["no layers", "no scratch", "no weights", "another word", "another name"],
)
def test_a_log_of_another_form_is_an_error_and_not_a_guess(log, message):
    with pytest.raises(EngineError, match=message):
        describe_structure(log, VERSION, ["free", "64x64"])


def test_another_version_is_not_read():
    with pytest.raises(EngineError, match=r"TensorRT for RTX 1\.8\.0\.1: the form of its log is not known, expected"):
        describe_structure(LOG, "1.8.0.1", ["free", "64x64"])
    with pytest.raises(EngineError, match=r"1\.71\.0"):
        read_layers(LOG, "1.71.0")
