"""Several sizes: functions of one package from iOS 18 on, packages of their own before."""

import numpy as np
import onnx_ir as ir
import pytest
from coreml_interpreter.package import Package

from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.errors import EngineError, InputError
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.coreml.build.fix_sizes import free_dims, pin, sizes_of

BUCKETS = ((64, 64), (96, 72))


@pytest.mark.slow_cases("*vae_encoder*")
@pytest.mark.slow_cases("*vae_decoder*")
@pytest.mark.parametrize("target", [pytest.param("iOS17", marks=pytest.mark.slow), "iOS18"])
@pytest.mark.parametrize("component", [pytest.param("unet", marks=pytest.mark.slow), "vae_encoder", "vae_decoder"])
def test_the_feeds_choose_the_size(lowered, open_engine, torch_outputs, make_feeds, target, component):
    made = lowered("sd1", component, buckets=BUCKETS, deployment_target=target)
    names = [package.name for package in made.packages]
    assert names == (["model.mlpackage"] if target == "iOS18" else ["model.64x64.mlpackage", "model.72x96.mlpackage"])
    with open_engine(made) as engine:
        for height, width in BUCKETS:
            feeds = make_feeds(made.spec.inputs, sizes={"height": height, "width": width})
            for name, expected in torch_outputs("sd1", component, feeds).items():
                np.testing.assert_allclose(engine.run(feeds)[name], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_weights_are_shared_in_one_package(lowered):
    one = lowered("sd1", "unet", deployment_target="iOS18")
    two = lowered("sd1", "unet", buckets=BUCKETS, deployment_target="iOS18")
    weights = [
        sum(file.stat().st_size for file in made.bundle.rglob("*.mlpackage/**/weight.bin")) for made in (one, two)
    ]
    assert weights[1] < 1.01 * weights[0]
    package = Package(two.packages[0])
    assert list(package.functions) == ["size_64x64", "size_72x96"]
    assert package.default == "size_64x64"


@pytest.mark.slow
def test_chunks_of_several_sizes(lowered, open_engine, torch_outputs, make_feeds):
    made = lowered("sd1-small", "unet", buckets=BUCKETS, deployment_target="iOS18", chunks=2)
    feeds = make_feeds(made.spec.inputs, sizes={"height": 96, "width": 72})
    with open_engine(made) as engine:
        got = engine.run(feeds)["out_sample"]
    np.testing.assert_allclose(got, torch_outputs("sd1-small", "unet", feeds)["out_sample"], rtol=0, atol=1e-4)


def test_another_size_is_refused(lowered, open_engine, make_feeds):
    made = lowered("sd1", "vae_decoder", buckets=BUCKETS, deployment_target="iOS18")
    feeds = make_feeds(made.spec.inputs, sizes={"height": 72, "width": 96})
    with (
        open_engine(made) as engine,
        pytest.raises(
            EngineError, match=r"got inputs of shape .*\(1, 4, 9, 12\).* expected those of one of: .*size_72x96"
        ),
    ):
        engine.run(feeds)


@pytest.mark.slow
def test_the_spec_has_numbers_where_sizes_agree(lowered):
    made = lowered("sd1", "unet", buckets=BUCKETS, deployment_target="iOS18")
    sample, timestep, condition = made.spec.inputs
    assert sample.shape == (2, 4, "height/8", "width/8")
    assert timestep.shape == (1,)
    assert condition.shape == (2, 77, 32)
    assert made.spec.metadata["sizes"] == ["64x64", "72x96"]
    assert lowered("sd1", "unet").spec.inputs[0].shape == (2, 4, 8, 8)


def test_a_text_encoder_has_one_size(lowered):
    made = lowered("sd1", "text_encoder", buckets=BUCKETS, deployment_target="iOS16")
    assert [package.name for package in made.packages] == ["model.mlpackage"]
    assert made.spec.inputs[0].shape == (1, 77)


def work(component, graph, **settings):
    return Lowering(
        component=component,
        role=role_of_folder(component),
        graph=graph,
        bundle=graph.parent.parent,
        precision="fp32",
        **settings,
    )


@pytest.mark.parametrize(
    ("component", "dims", "batch"),
    [
        ("unet", {}, 2),
        ("unet", {"batch": DimSpec(min=1, max=1)}, 1),
        ("unet", {"batch": DimSpec(min=1, max=8)}, 2),
        ("vae_decoder", {"batch": DimSpec(min=4, max=4)}, 1),
    ],
)
def test_rows_of_a_call(bundle_of, component, dims, batch):
    graph = bundle_of("sd1") / component / "model.onnx"
    dims = {"height": DimSpec(min=64, max=64), "width": DimSpec(min=72, max=72)} | dims
    (size,) = sizes_of(work(component, graph, dims=dims), ir.load(graph), 77)
    assert (size.batch, size.height, size.width) == (batch, 64, 72)


def test_without_a_size_it_is_the_checkpoints_own(bundle_of):
    graph = bundle_of("emoji") / "unet/model.onnx"
    said = []
    (size,) = sizes_of(work("unet", graph, progress=said.append), ir.load(graph), 77)
    assert (size.height, size.width) == (64, 64)
    assert said == ["64x64 pixels, the checkpoint's own size"]


@pytest.mark.parametrize(
    ("height", "width", "got"),
    [
        (DimSpec(min=72, max=128), DimSpec(min=64, max=64), "height 72 to 128 and width 64"),
        (DimSpec(min=72, max=72), DimSpec(), "height 72 and width 1 to any size"),
    ],
)
def test_sizes_without_the_checkpoints_own_are_refused(bundle_of, height, width, got):
    graph = bundle_of("emoji") / "unet/model.onnx"
    with pytest.raises(
        InputError,
        match=f"'unet': got {got}, and 64x64 pixels, the checkpoint's own size, expected one .* with --buckets 512x512",
    ):
        sizes_of(work("unet", graph, dims={"height": height, "width": width}), ir.load(graph), 77)


def test_a_bundle_without_configs_needs_a_size(bundle_of, tmp_path):
    graph = bundle_of("emoji") / "unet/model.onnx"
    bare = Lowering(component="unet", role="denoiser", graph=graph, bundle=tmp_path, precision="fp32")
    with pytest.raises(InputError, match="height 1 to any size and .*, and no size of the checkpoint's own, expected"):
        sizes_of(bare, ir.load(graph), 77)


def test_pinning_leaves_numbers_only(bundle_of):
    model = pin(ir.load(bundle_of("sd1") / "unet/model.onnx"), {"batch": 2, "height": 72, "width": 64, "sequence": 77})
    assert free_dims(model.graph) == {}
    assert not {"Shape", "Range", "Constant"} & {node.op_type for node in model.graph}
    other = pin(ir.load(bundle_of("sd1") / "unet/model.onnx"), {"batch": 2, "height": 72})
    assert free_dims(other.graph)["sample"] == ["width/8"]
