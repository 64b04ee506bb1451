"""Upsamplings that count as doubling: by their factor, or by trying every size that a user may ask for."""

import numpy as np
import pytest

from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.targets.openvino.build.upsample_sizes import doubling

BY_SIZE = """<ir_version: 10, opset_import: ["" : 23]>
g (float[N,4,H,W] x, float[4,4,3,3] w, float[4,4,3,3] v) => (float[N,4,A,B] y) {
    half = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]>(x, w)
    size = Shape(x)
    up = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">(half, , , size)
    u = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(up, v)
    y = Add(u, x)
}"""

INPUTS = (TensorSpec(name="x", dtype="float32", shape=("batch", 4, "height/8", "width/8")),)


def dims(height, width):
    return {"batch": DimSpec(), "height": DimSpec(**height), "width": DimSpec(**width)}


@pytest.fixture
def model(imported):
    weight = np.zeros((4, 4, 3, 3), np.float32)
    return imported(BY_SIZE, {"w": weight, "v": weight})


EVEN, ANY = {"min": 16, "multiple_of": 16}, {"min": 8, "multiple_of": 8}


@pytest.mark.parametrize(
    ("height", "width", "buckets", "doubles"),
    [
        (EVEN, EVEN, (), True),
        (ANY, EVEN, (), False),
        (EVEN, ANY, (), False),
        ({"min": 16, "multiple_of": 8}, EVEN, (), False),  # the smallest size is even, the next is not
        ({"min": 512, "max": 512}, {"min": 768, "max": 768}, (), True),
        ({"min": 520, "max": 520}, {"min": 768, "max": 768}, (), False),
        (ANY, ANY, ((512, 768), (64, 16)), True),
        (ANY, ANY, ((512, 768), (512, 72)), False),
    ],
)
def test_upsampling_to_the_size_of_a_skip_connection_depends_on_the_sizes(model, height, width, buckets, doubles):
    found = doubling(model, INPUTS, dims(height, width), buckets)
    assert len(found) == doubles
    assert model.is_dynamic()  # sizes were tried out on a copy


def test_without_known_sizes_only_factors_count(model):
    assert not doubling(model, INPUTS, {})
