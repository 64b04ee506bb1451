"""Symbolic sizes, solved and put in."""

import pytest

from diffoundry.runtime.bundle.specs import TensorSpec
from diffoundry.runtime.bundle.symbolic_sizes import resolve, solve


def test_sizes_are_solved_from_the_shapes_of_feeds():
    specs = [
        TensorSpec(name="sample", dtype="float32", shape=("batch", 4, "height/8", "width/8")),
        TensorSpec(name="timestep", dtype="float32", shape=(1,)),
        TensorSpec(name="text", dtype="float32", shape=("batch", "sequence", 768)),
        TensorSpec(name="residual", dtype="float32", shape=("batch", 320, "(height+127)//128", "width/8")),
    ]
    shapes = {"sample": (2, 4, 64, 96), "timestep": (1,), "text": (2, 77, 768), "residual": (2, 320, 5, 96)}
    assert solve(specs, shapes) == {"batch": 2, "height": 512, "width": 768, "sequence": 77}


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (("batch", 3, "height", "width"), (2, 3, 512, 768)),
        (("batch", "height/8", 4), (2, 64, 4)),
        (("batch", "unknown"), None),
        (("height/7",), None),
        (("(height+6)//7", "(height+15)//16"), (74, 32)),
        ((1, 2), (1, 2)),
    ],
)
def test_shapes_are_resolved_or_unknown(shape, found):
    assert resolve(shape, {"batch": 2, "height": 512, "width": 768}) == found
