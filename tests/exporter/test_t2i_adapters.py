"""T2I-Adapters of checkpoints: held or joined, one interface with the denoiser, refused with a sentence."""

import json
import shutil

import diffusers
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint, open_recipe
from diffoundry.exporter.components.adapter_features import denoiser_features
from diffoundry.exporter.passes import OPSET
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.steps.trace import trace
from diffoundry.runtime.bundle.dims import size_of
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import DimSpec, Recipe, Variant
from diffoundry.runtime.errors import CheckpointError, ConfigError
from diffoundry.runtime.models.t2i_adapter import is_feature


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def joined(tiny_sd_checkpoint, tiny_t2i_adapter):
    """Factory: a tiny checkpoint with T2I-Adapters of these kinds."""

    def make(base="sd1-small", *kinds):
        folders = [str(tiny_t2i_adapter(base, kind)) for kind in kinds or ("full",)]
        return open_checkpoint(str(tiny_sd_checkpoint(base))).with_t2i_adapters(folders)

    return make


@pytest.fixture
def own_adapter(tiny_t2i_adapter, tmp_path):
    """A copy of an adapter that a test may spoil."""
    return shutil.copytree(tiny_t2i_adapter(), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("base", "kind", "size"),
    [("sd1", "full", (72, 88)), ("sd1", "light", (72, 88)), ("xl-three", "xl", (144, 176))],
)
def test_both_sides_declare_the_features_of_diffusers(joined, tmp_path, base, kind, size):
    """Sides that do not halve evenly: the graph rounds up where diffusers does.

    In float64, since without AVX-512 torch's own fp32 is further from it than the graph.
    """
    checkpoint = joined(base, kind)
    component, unet = checkpoint.component("adapter"), checkpoint.component("unet")
    sizes = dict(zip(("height", "width"), size, strict=True)) | {"batch": 2}
    module = checkpoint.load("adapter")
    ir.save(trace(module, component, opset=OPSET), tmp_path / "adapter.onnx")
    pixels = torch.rand([size_of(dim, sizes) for dim in component.inputs[0].shape])
    with torch.no_grad():
        expected = [feature.numpy() for feature in checkpoint.load("adapter").double()(pixels.double())]
    features = onnxruntime.InferenceSession(tmp_path / "adapter.onnx").run(None, {"image": pixels.numpy()})
    for ours, theirs in zip(features, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    taken = [spec for spec in unet.inputs if is_feature(spec.name)]
    assert [spec.name for spec in taken] == [spec.name for spec in component.outputs]
    shapes = [feature.shape for feature in expected]
    assert [tuple(size_of(dim, sizes) for dim in spec.shape) for spec in component.outputs] == shapes
    assert [tuple(size_of(dim, sizes) for dim in spec.shape) for spec in taken] == shapes


def test_a_denoiser_without_adapters_takes_no_features(tiny_sd_checkpoint):
    plain = open_checkpoint(str(tiny_sd_checkpoint("sd1-small")))
    assert not any(is_feature(spec.name) for spec in plain.component("unet").inputs)


def test_joined_ones_are_numbered_and_recorded(joined, tiny_t2i_adapter):
    checkpoint = joined("xl-three", "xl", "xl")
    assert [component.name for component in checkpoint.components][-2:] == ["adapter", "adapter_1"]
    index = checkpoint.bundle_model_index()
    assert index["_class_name"] == "StableDiffusionXLAdapterPipeline"
    assert index["adapter"] == ["diffusers", "MultiAdapter"]
    assert "adapter_1" not in index
    assert checkpoint.dims == dict.fromkeys(("height", "width"), DimSpec(multiple_of=16))
    sums = checkpoint.identity()
    assert "adapter_1/diffusion_pytorch_model.safetensors" in sums
    recipe = make_recipe(checkpoint, ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),)))
    assert recipe.t2i_adapters == (str(tiny_t2i_adapter("xl-three", "xl")),) * 2
    assert from_json(Recipe, to_json(recipe)) == recipe
    assert open_recipe(recipe).identity() == sums
    assert Checkpoint.reopen(json.loads(json.dumps(checkpoint.describe()))).identity() == sums


@pytest.mark.parametrize("count", [1, 2])
def test_a_checkpoint_that_diffusers_saved_holds_its_own(tiny_sd_checkpoint, tiny_t2i_adapter, tmp_path, count):
    models = [diffusers.T2IAdapter.from_pretrained(tiny_t2i_adapter("sd1-small", kind)) for kind in ("full", "grey")]
    pipe = diffusers.StableDiffusionAdapterPipeline.from_pretrained(
        tiny_sd_checkpoint("sd1-small"), adapter=models if count == 2 else models[0], safety_checker=None
    )
    pipe.save_pretrained(tmp_path / "saved")
    saved = open_checkpoint(str(tmp_path / "saved"))
    assert [part.name for part in saved.components][4:] == ["adapter", "adapter_1"][:count]
    assert saved.t2i_adapters == ()
    entry = json.loads((tmp_path / "saved/model_index.json").read_text())["adapter"]
    assert saved.bundle_model_index()["adapter"] == entry
    more = saved.with_t2i_adapters([str(tiny_t2i_adapter("sd1-small", "full"))])
    assert more.components[-1].name == f"adapter_{count}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"channels": [32, 32]},
            "feature 1 of the T2I-Adapter: got 32 channels at 8 pixels, but the UNet takes 64 channels at 8 pixels",
        ),
        ({"downscale_factor": 8}, "feature 0 .* got 32 channels at 8 pixels, but the UNet takes 32 channels at 4"),
        ({"channels": [32, 64, 64, 64, 64]}, "feature 2 .* but the UNet takes 64 channels at 8 pixels"),
        ({"in_channels": 4}, "field 'in_channels': got 4, expected 3 for RGB or 1 for grey"),
        ({"adapter_type": "half"}, "field 'adapter_type': got 'half', expected 'full_adapter', 'full_adapter_xl' or"),
    ],
)
def test_one_for_another_checkpoint_is_refused(tiny_sd_checkpoint, own_adapter, changes, message):
    edit(own_adapter / "config.json", **changes)
    with pytest.raises(ConfigError, match=f"adapter/config.json: {message}"):
        open_checkpoint(str(tiny_sd_checkpoint("sd1-small"))).with_t2i_adapters([str(own_adapter)])


def test_more_features_than_places_are_refused(joined, own_adapter):
    edit(own_adapter / "config.json", channels=[32, 64, 64, 64], adapter_type="full_adapter_xl", downscale_factor=4)
    with pytest.raises(ConfigError, match="feature 1 .* got 64 channels at 4 pixels, but the UNet takes 64 channels"):
        joined("sd1-small").with_t2i_adapters([str(own_adapter)])


def test_other_folders_than_adapters_are_refused(tiny_sd_checkpoint, own_adapter, tiny_controlnet):
    plain = open_checkpoint(str(tiny_sd_checkpoint("sd1-small")))
    with pytest.raises(CheckpointError, match="--t2i-adapter: got 'nowhere', expected a folder in diffusers' layout"):
        plain.with_t2i_adapters(["nowhere"])
    instruct = open_checkpoint(str(tiny_sd_checkpoint("instruct")))
    with pytest.raises(CheckpointError, match="'StableDiffusionInstructPix2PixPipeline' with a T2I-Adapter, expected"):
        instruct.with_t2i_adapters([str(own_adapter)])
    controlled = open_checkpoint(str(tiny_sd_checkpoint())).with_controlnets([str(tiny_controlnet())])
    with pytest.raises(CheckpointError, match="'StableDiffusionControlNetPipeline' with a T2I-Adapter, expected"):
        controlled.with_t2i_adapters([str(own_adapter)])
    edit(own_adapter / "config.json", _class_name="MultiAdapter")
    with pytest.raises(CheckpointError, match="got a MultiAdapter, expected a T2IAdapter"):
        plain.with_t2i_adapters([str(own_adapter)])


def test_a_pipeline_that_lacks_its_adapter_is_damaged(own_checkpoint):
    edit(own_checkpoint / "model_index.json", _class_name="StableDiffusionAdapterPipeline")
    with pytest.raises(CheckpointError, match="got no 'adapter' in a StableDiffusionAdapterPipeline, expected one"):
        open_checkpoint(str(own_checkpoint))


def test_damaged_blocks_of_the_unet_are_refused(tiny_sd_checkpoint):
    configs = configs_of(tiny_sd_checkpoint("sd1-small"))
    configs["unet"]["down_block_types"] = ["DownBlock2D"]
    with pytest.raises(
        ConfigError, match=r"field 'down_block_types': got \['DownBlock2D'\], expected 2 names of blocks"
    ):
        denoiser_features(configs)


def configs_of(folder):
    return {name: json.loads((folder / name / "config.json").read_text()) for name in ("unet", "vae")}
