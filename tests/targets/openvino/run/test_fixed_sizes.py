"""Small networks that are compiled for each size: which ones, for how many sizes, and what the next size gets."""

import dataclasses

import pytest

from diffoundry.runtime.bundle.specs import EngineSpec, TensorSpec
from diffoundry.targets.openvino.run.fixed_sizes import SmallModel, sizes_compiled

MIB = 1 << 20
LATENTS = TensorSpec(name="sample", dtype="float32", shape=("batch", 4, "height/8", "width/8"))
TIME = TensorSpec(name="timestep", dtype="float32", shape=(1,))
SPEC = EngineSpec(
    target="openvino", precision="fp32", files=("m.xml",), built_with={}, inputs=(LATENTS, TIME), outputs=(LATENTS,)
)


@pytest.mark.parametrize(("mib", "sizes"), [(1, 8), (23, 5), (64, 2), (65, 0), (3400, 0)])
def test_the_smaller_a_unet_the_more_sizes(mib, sizes):
    assert sizes_compiled(SPEC, mib * MIB) == sizes


def test_other_networks_are_compiled_once():
    assert sizes_compiled(dataclasses.replace(SPEC, inputs=(LATENTS,)), MIB) == 0
    assert sizes_compiled(dataclasses.replace(SPEC, inputs=(TIME,)), MIB) == 0


class Model:
    def clone(self):
        return self


def test_the_first_sizes_get_their_own_and_all_later_ones_share_one():
    made = []
    small = SmallModel(Model(), 2, lambda _, sizes: made.append(sizes) or f"pool {len(made)}")
    asked = [{"batch": 1, "height": 64}, {"height": 64, "batch": 1}, {"batch": 2, "height": 64}]
    assert [small.find(sizes) for sizes in asked] == ["pool 1", "pool 1", "pool 2"]
    assert [small.find({"batch": rows, "height": 64}) for rows in (3, 4, 1)] == ["pool 3", "pool 3", "pool 1"]
    assert made == [asked[0], asked[2], None]
    assert len(small.compiled) == 3
