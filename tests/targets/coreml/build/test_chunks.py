"""The denoiser in two packages: the second on what the first gives is the whole, and each has half of the weights."""

import numpy as np
import onnx_ir as ir
import pytest
from coreml_interpreter.run import Interpreter

from diffoundry.runtime.errors import EngineError
from diffoundry.targets.coreml.build.chunks import cut_in_two, cut_place
from diffoundry.targets.coreml.build.fix_sizes import pin

pytestmark = pytest.mark.slow

SIZES = {"batch": 2, "height": 64, "width": 64, "sequence": 77}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_the_second_on_the_first_is_the_whole(lowered, make_feeds, precision):
    whole, cut = (lowered("emoji", "unet", precision, chunks=chunks) for chunks in (1, 2))
    feeds = make_feeds(whole.spec.inputs)
    (expected,) = Interpreter(whole.packages[0]).run(feeds).outputs.values()
    first, second = (Interpreter(package) for package in cut.packages)
    given = feeds | first.run({name: feeds[name] for name in first.function.inputs}).outputs
    (got,) = second.run({name: given[name] for name in second.function.inputs}).outputs.values()
    # The same operators on the same numbers; what crosses is float32 at the edge, which holds half precision exactly.
    np.testing.assert_array_equal(got, expected)


def test_the_engine_runs_both(lowered, open_engine, make_feeds, torch_outputs):
    made = lowered("emoji", "unet", chunks=2)
    assert [package.name for package in made.packages] == ["model.chunk1.mlpackage", "model.chunk2.mlpackage"]
    feeds = make_feeds(made.spec.inputs)
    with open_engine(made) as engine:
        got = engine.run(feeds)["out_sample"]
    np.testing.assert_allclose(got, torch_outputs("emoji", "unet", feeds)["out_sample"], rtol=0, atol=1e-4)


def test_each_has_half_of_the_weights(lowered):
    sizes = [
        sum(file.stat().st_size for file in package.rglob("weight.bin"))
        for package in lowered("emoji", "unet", chunks=2).packages
    ]
    assert 0.4 < sizes[0] / sum(sizes) < 0.6


@pytest.mark.slow
def test_what_crosses_has_fp32_edges_and_one_name_on_both_sides(lowered):
    first, second = (Interpreter(package).function for package in lowered("emoji", "unet", "fp16", chunks=2).packages)
    crossing = set(second.inputs) - {"sample", "timestep", "encoder_hidden_states"}
    assert crossing == set(first.outputs) != set()
    for name in crossing:
        assert second.inputs[name] == first.outputs[name]
        assert second.inputs[name].dtype == "float32"
    assert set(second.outputs) == {"out_sample"}


def test_other_components_stay_whole(lowered):
    assert len(lowered("sd1", "vae_decoder", chunks=2).packages) == 1


def test_the_cut_is_where_the_fewest_numbers_cross(bundle_of):
    model = pin(ir.load(bundle_of("sd1") / "unet/model.onnx"), SIZES)
    nodes, place = list(model.graph), cut_place(model.graph)

    def crossing(place):
        behind = set(nodes[place:])
        values = [v for node in nodes[:place] for v in node.outputs if any(user in behind for user, _ in v.uses())]
        return sum(int(np.prod(value.shape.numpy())) for value in values)

    assert all(crossing(place) <= crossing(place + step) for step in (-3, -2, -1, 1, 2, 3))


def test_a_graph_without_weights_is_not_cut():
    text = '<ir_version: 10, opset_import: ["": 23]>\ng (float[2] x) => (float[2] y) { y = Relu(x) }'
    with pytest.raises(EngineError, match="got 1 nodes with 0 bytes .* expected a place near half .* without --chunks"):
        cut_in_two(lambda: ir.from_onnx_text(text))
