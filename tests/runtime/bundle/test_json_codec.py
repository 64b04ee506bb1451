"""Dataclasses to JSON and back: what is written is read, and everything else is refused with its path."""

import json

import pytest

from diffoundry.runtime.bundle.json_codec import RecordError, from_json, to_json
from diffoundry.runtime.bundle.specs import ComponentSpec, DimSpec, EngineSpec, TensorSpec

_TENSOR = TensorSpec(name="sample", dtype="float32", shape=("batch", 4, "height/8", "width/8"))
_ENGINE = EngineSpec(
    target="onnxruntime",
    precision="fp32",
    files=("unet/model.onnx",),
    inputs=(_TENSOR,),
    outputs=(),
    options={"level": 2},
    built_with={"onnxruntime": "1.31"},
)
_COMPONENT = ComponentSpec(
    role="denoiser",
    network="UNet2DConditionModel",
    graph=("unet/model.onnx", "unet/model.onnx_data"),
    engines=(_ENGINE,),
)


def test_round_trip_through_json_text():
    assert from_json(ComponentSpec, json.loads(json.dumps(to_json(_COMPONENT)))) == _COMPONENT


def test_defaults_may_be_absent():
    assert from_json(DimSpec, {"multiple_of": 8}) == DimSpec(multiple_of=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": "unet/model.onnx"}, r"\$\.engines\[0\]\.files: got 'unet/model.onnx', expected a list"),
        ({"files": [7]}, r"\$\.engines\[0\]\.files\[0\]: got 7, expected a string"),
        ({"target": None}, r"\$\.engines\[0\]\.target: got None, expected a string"),
        ({"colour": 1}, r"\$\.engines\[0\]: got the unknown field 'colour', expected only target, precision"),
        (
            {"inputs": [{"name": "x", "dtype": "float32", "shape": [True]}]},
            r"shape\[0\]: got True, expected an integer or",
        ),
        ({"built_with": {"onnx": 1}}, r"\$\.engines\[0\]\.built_with\.onnx: got 1, expected a string"),
    ],
)
def test_wrong_forms_name_their_path(change, message):
    data = to_json(_COMPONENT)
    data["engines"][0] |= change
    with pytest.raises(RecordError, match=message):
        from_json(ComponentSpec, data)


def test_missing_field_is_named():
    with pytest.raises(RecordError, match=r"\$: the field 'graph' is missing"):
        from_json(ComponentSpec, {"role": "denoiser", "network": "", "engines": []})


@pytest.mark.parametrize(
    ("dim", "value", "refusal"),
    [
        (DimSpec(min=512, max=512), 512, None),
        (DimSpec(min=512, max=512), 256, "expected 512"),
        (DimSpec(min=64, max=1024, multiple_of=64), 2048, "expected 64 to 1024 in steps of 64"),
        (DimSpec(min=64, multiple_of=64), 100, "expected a multiple of 64"),
        (DimSpec(min=64, multiple_of=64), 6400, None),
    ],
)
def test_dims_refuse_in_words(dim, value, refusal):
    assert dim.refusal(value) == refusal


def test_half_of_a_surrogate_pair_is_no_text():
    with pytest.raises(RecordError, match=r"\$: got half of a surrogate pair in '.ud800', expected text"):
        from_json(str, "\ud800")
