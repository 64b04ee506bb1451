"""A ControlNet and the denoiser that it guides, taken by the real builder; residuals of sizes that are rounded up."""

import shutil

import pytest

from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.default_sizes import DefaultSizes
from diffoundry.targets.tensorrt.build.profiles import make_profiles, shapes_of
from diffoundry.targets.tensorrt.build.target import RTXTarget

DIMS = {"batch": DimSpec(), "height": DimSpec(min=8, multiple_of=8), "width": DimSpec(min=8, multiple_of=8)}


def test_profiles_round_up():
    residual = TensorSpec(name="r", dtype="float32", shape=("batch", 64, "(height+15)//16", "(width+31)//32"))
    (profile,) = make_profiles({"odd": {"height": [64, 72, 88], "width": [64, 72, 136]}}, DIMS, (), DefaultSizes())
    assert shapes_of(profile, (residual,))["r"] == ((1, 64, 4, 2), (2, 64, 5, 3), (4, 64, 6, 5))


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("component", [pytest.param("unet", marks=pytest.mark.slow), "controlnet"])
def test_the_builder_takes_them(controlled_bundle, tmp_path, component):
    folder = tmp_path / component
    folder.mkdir()
    for file in ("model.onnx", "model.onnx_data"):
        shutil.copy(controlled_bundle() / component / file, folder)
    sizes = {"sizes": {"batch": [1, 2, 2], "height": [64, 72, 72], "width": [64, 88, 88]}}
    target = RTXTarget(compute_capabilities=("sm89",), profiles=sizes)
    work = Lowering(
        component=component,
        role=role_of_folder(component),
        graph=folder / "model.onnx",
        bundle=tmp_path,
        precision="fp32",
        dims=DIMS,
        buckets=(),
    )
    spec = target.lower(work)
    assert spec.pending is None
    tensors = {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}
    assert tensors["down_block_additional_residual_2"] == ("batch", 32, "(height+15)//16", "(width+15)//16")
    assert tensors["mid_block_additional_residual"] == ("batch", 64, "(height+31)//32", "(width+31)//32")
    assert spec.metadata["proof"] == "compiled without a GPU, never run"
