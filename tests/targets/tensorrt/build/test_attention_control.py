"""A UNet whose attention is edited from outside, taken by the real builder."""

import shutil

import pytest

from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.models.roles import DENOISER
from diffoundry.targets.base import Lowering
from diffoundry.targets.tensorrt.build.target import RTXTarget

pytestmark = [pytest.mark.usefixtures("rtx"), pytest.mark.slow]

DIMS = {"batch": DimSpec(), "height": DimSpec(min=8, multiple_of=8), "width": DimSpec(min=8, multiple_of=8)}


def test_the_builder_takes_it_in_free_sizes(edited_bundle, tmp_path):
    folder = tmp_path / "unet"
    folder.mkdir()
    for file in ("model.onnx", "model.onnx_data"):
        shutil.copy(edited_bundle / "unet" / file, folder)
    sizes = {"sizes": {"batch": [1, 4, 6], "height": [64, 72, 72], "width": [64, 88, 88]}}
    target = RTXTarget(compute_capabilities=("sm89",), profiles=sizes)
    work = Lowering(
        component="unet",
        role=DENOISER,
        graph=folder / "model.onnx",
        bundle=tmp_path,
        precision="fp32",
        dims=DIMS,
        buckets=(),
    )
    spec = target.lower(work)
    assert spec.pending is None
    tensors = {tensor.name: (tensor.dtype, tensor.shape) for tensor in (*spec.inputs, *spec.outputs)}
    assert tensors["cross_map"] == ("float32", ("batch", "sequence", "sequence"))
    assert tensors["base_rows"] == ("int32", ("batch",))
    assert tensors["attention_maps"] == ("float32", ("batch", "sequence", "height/8", "width/8"))
    assert spec.metadata["proof"] == "compiled without a GPU, never run"
