"""T2I-Adapters and IP-Adapters, and the denoisers that take them, taken by the real builder."""

import shutil

import pytest

from diffoundry.runtime.bundle.specs import DimSpec, TensorSpec
from diffoundry.runtime.models.roles import role_of_folder
from diffoundry.targets.base import Lowering
from diffoundry.targets.default_sizes import DefaultSizes
from diffoundry.targets.tensorrt.build.profiles import make_profiles, shapes_of
from diffoundry.targets.tensorrt.build.target import RTXTarget

DIMS = {"batch": DimSpec(), "height": DimSpec(min=8, multiple_of=8), "width": DimSpec(min=8, multiple_of=8)}


def test_image_prompts_have_one_size():
    tokens = TensorSpec(name="t", dtype="float32", shape=("batch", "image_prompts_0", "image_tokens_0", 32))
    default = DefaultSizes(others={"image_prompts_0": 1, "image_tokens_0": 4})
    (profile,) = make_profiles({}, DIMS, (), default)
    assert shapes_of(profile, (tokens,))["t"] == ((1, 1, 4, 32), (2, 1, 4, 32), (4, 1, 4, 32))


@pytest.mark.slow
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("component", ["unet", "adapter", "ip_adapter", "ip_adapter_1", "image_encoder"])
def test_the_builder_takes_them(adapted_bundle, image_prompt_bundle, tmp_path, component):
    bundles = [adapted_bundle()] if component == "adapter" else [image_prompt_bundle()]
    bundles += [adapted_bundle()] if component == "unet" else []
    for number, bundle in enumerate(bundles):
        folder = tmp_path / str(number) / component
        folder.mkdir(parents=True)
        for file in ("model.onnx", "model.onnx_data"):
            shutil.copy(bundle / component / file, folder)
        sizes = {"sizes": {"batch": [1, 2, 2], "height": [40, 40, 48], "width": [48, 56, 56]}}
        work = Lowering(
            component=component,
            role=role_of_folder(component),
            graph=folder / "model.onnx",
            bundle=tmp_path / str(number),
            precision="fp32",
            dims=DIMS,
            buckets=(),
        )
        spec = RTXTarget(compute_capabilities=("sm89",), profiles=sizes).lower(work)
        assert spec.pending is None
        assert spec.metadata["proof"] == "compiled without a GPU, never run"
