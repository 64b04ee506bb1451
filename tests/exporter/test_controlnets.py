"""ControlNets of checkpoints: held or joined, described by one interface with the denoiser, refused with a sentence."""

import json
import shutil

import diffusers
import pytest
import torch

from diffoundry.exporter.checkpoints import controlnets
from diffoundry.exporter.checkpoints.aliases import Alias
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.runtime.bundle.dims import size_of
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import DimSpec, Recipe, Variant
from diffoundry.runtime.errors import CheckpointError, ConfigError
from diffoundry.runtime.models.controlnet import is_residual

SIZES = {"batch": 2, "height": 72, "width": 88}


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def joined(tiny_sd_checkpoint, tiny_controlnet):
    """Factory: a tiny checkpoint with ControlNets of these names."""

    def make(base="sd1", *nets):
        folders = [str(tiny_controlnet(base, net)) for net in nets or ("first",)]
        return open_checkpoint(str(tiny_sd_checkpoint(base))).with_controlnets(folders)

    return make


@pytest.fixture
def own_net(tiny_controlnet, tmp_path):
    """A copy of a ControlNet that a test may spoil."""
    return shutil.copytree(tiny_controlnet(), tmp_path / "net")


@pytest.mark.parametrize(("base", "net"), [("sd1", "first"), ("xl", "first"), ("sd1", "pooled")])
def test_both_sides_declare_the_residuals_of_diffusers(joined, base, net):
    checkpoint = joined(base, net)
    component, unet = checkpoint.component("controlnet"), checkpoint.component("unet")
    taken = [spec for spec in unet.inputs if is_residual(spec.name)]
    assert [spec.name for spec in taken] == [spec.name for spec in component.outputs]
    sizes = {**SIZES, "sequence": 7}
    feeds = {s.name: torch.zeros([size_of(dim, sizes) for dim in s.shape]) for s in component.inputs}
    added = {name: feeds.pop(name) for name in ("text_embeds", "time_ids") if name in feeds}
    with torch.no_grad():
        down, middle = checkpoint.load("controlnet")(**feeds, added_cond_kwargs=added or None, return_dict=False)
    computed = [tuple(tensor.shape) for tensor in (*down, middle)]
    assert [tuple(size_of(dim, SIZES) for dim in spec.shape) for spec in component.outputs] == computed
    if net != "pooled":
        assert [spec.shape for spec in taken] == [spec.shape for spec in component.outputs]
        assert ("batch", 64, "(height+15)//16", "(width+15)//16") in [spec.shape for spec in taken]


def test_a_denoiser_without_controlnets_takes_no_residuals(tiny_sd_checkpoint):
    plain = open_checkpoint(str(tiny_sd_checkpoint()))
    assert not any(is_residual(spec.name) for spec in plain.component("unet").inputs)


def test_joined_ones_are_numbered_and_recorded(joined, tiny_controlnet, monkeypatch):
    checkpoint = joined("sd1", "first", "second")
    assert [component.name for component in checkpoint.components][-2:] == ["controlnet", "controlnet_1"]
    index = checkpoint.bundle_model_index()
    assert index["_class_name"] == "StableDiffusionControlNetPipeline"
    assert index["controlnet"] == ["diffusers", "MultiControlNetModel"]
    assert "controlnet_1" not in index
    assert checkpoint.dims == dict.fromkeys(("height", "width"), DimSpec(multiple_of=8))
    sums = checkpoint.identity()
    weights = [sums[f"{name}/diffusion_pytorch_model.safetensors"] for name in ("controlnet", "controlnet_1")]
    assert weights[0] != weights[1]
    recipe = make_recipe(checkpoint, ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),)))
    assert recipe.controlnets == tuple(str(tiny_controlnet("sd1", net)) for net in ("first", "second"))
    assert from_json(Recipe, to_json(recipe)) == recipe
    monkeypatch.chdir("/")
    again = Checkpoint.reopen(json.loads(json.dumps(checkpoint.describe())))
    assert again.identity() == sums


@pytest.mark.parametrize("count", [1, 2])
def test_a_checkpoint_that_diffusers_saved_holds_its_own(tiny_sd_checkpoint, tiny_controlnet, tmp_path, count):
    nets = [diffusers.ControlNetModel.from_pretrained(tiny_controlnet("sd1", name)) for name in ("first", "second")]
    pipe = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        tiny_sd_checkpoint(), controlnet=nets if count == 2 else nets[0], safety_checker=None
    )
    pipe.save_pretrained(tmp_path / "saved")
    saved = open_checkpoint(str(tmp_path / "saved"))
    assert [part.name for part in saved.components][4:] == ["controlnet", "controlnet_1"][:count]
    assert saved.controlnets == ()
    assert saved.bundle_model_index()["controlnet"] == pipe_entry(tmp_path / "saved")
    more = saved.with_controlnets([str(tiny_controlnet("sd1", "third"))])
    assert more.components[-1].name == f"controlnet_{count}"
    assert more.folder("controlnet") == tmp_path / "saved/controlnet"


def pipe_entry(folder):
    return json.loads((folder / "model_index.json").read_text())["controlnet"]


def test_an_alias_may_name_a_folder_that_is_installed(tiny_controlnet, monkeypatch, tiny_sd_checkpoint):
    folder = str(tiny_controlnet())
    alias = Alias(configs=folder, folder=folder)
    monkeypatch.setattr(controlnets, "read_aliases", lambda: {"edges": alias})
    monkeypatch.setattr(controlnets, "alias_folder", lambda path: type(tiny_controlnet())(path))
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint())).with_controlnets(["edges"])
    assert checkpoint.controlnets == ("edges",)
    assert checkpoint.folder("controlnet") == tiny_controlnet()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [32, 64]}, r"'block_out_channels': got \[32, 64\], but the UNet has \[32, 64, 64\]"),
        ({"layers_per_block": 2}, r"'layers_per_block': got \[2, 2, 2\], but the UNet has \[1, 1, 1\]"),
        (
            {"cross_attention_dim": 48},
            "'cross_attention_dim': got 48, but the UNet has 32; this ControlNet was made for",
        ),
        ({"in_channels": 9}, "'in_channels': got 9, but the VAE's latents have 4"),
        (
            {"conditioning_embedding_out_channels": [8, 16, 24]},
            r"'conditioning_embedding_out_channels': got \[8, 16, 24\], for 4 pixels to a latent, but the VAE has 8",
        ),
        ({"conditioning_channels": 4}, "'conditioning_channels': got 4, expected 3: it is fed images in RGB"),
        ({"class_embed_type": "timestep"}, "'class_embed_type': got 'timestep', expected null; it is not supported"),
    ],
)
def test_one_for_another_checkpoint_is_refused(tiny_sd_checkpoint, own_net, changes, message):
    edit(own_net / "config.json", **changes)
    with pytest.raises(ConfigError, match=f"controlnet/config.json: field {message}"):
        open_checkpoint(str(tiny_sd_checkpoint())).with_controlnets([str(own_net)])


def test_other_folders_than_controlnets_are_refused(tiny_sd_checkpoint, own_net):
    plain = open_checkpoint(str(tiny_sd_checkpoint()))
    with pytest.raises(CheckpointError, match="--controlnet: got 'nowhere', expected an alias, a .safetensors file"):
        plain.with_controlnets(["nowhere"])
    instruct = open_checkpoint(str(tiny_sd_checkpoint("instruct")))
    with pytest.raises(CheckpointError, match="'StableDiffusionInstructPix2PixPipeline' with a ControlNet, expected"):
        instruct.with_controlnets([str(own_net)])
    edit(own_net / "config.json", _class_name="ControlNetUnionModel")
    with pytest.raises(CheckpointError, match="got a ControlNetUnionModel, expected a ControlNetModel"):
        plain.with_controlnets([str(own_net)])


def test_a_pipeline_that_lacks_its_controlnet_is_damaged(own_checkpoint):
    edit(own_checkpoint / "model_index.json", _class_name="StableDiffusionControlNetPipeline")
    with pytest.raises(
        CheckpointError, match="got no 'controlnet' in a StableDiffusionControlNetPipeline, expected one"
    ):
        open_checkpoint(str(own_checkpoint))
