"""IP-Adapters that are joined to a checkpoint: recorded, described by one interface, refused with a sentence."""

import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint, open_recipe
from diffoundry.exporter.components.image_prompts import cross_attention_layers
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.reference.pipeline import reference_pipeline
from diffoundry.exporter.request import ExportRequest
from diffoundry.runtime.bundle.json_codec import from_json, to_json
from diffoundry.runtime.bundle.specs import Recipe, Variant
from diffoundry.runtime.errors import CheckpointError, ConfigError
from diffoundry.runtime.models.image_projection import is_image_prompt_input


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def own_adapter(tiny_ip_adapter, tmp_path):
    """A copy of an adapter with its image encoder, which a test may spoil."""
    files = [tiny_ip_adapter("sd1-small", kind) for kind in ("plus", "plain")]
    shutil.copytree(files[0].parent / "image_encoder", tmp_path / "ip/image_encoder")
    return [shutil.copy(file, tmp_path / "ip") and tmp_path / "ip" / file.name for file in files][-1]


@pytest.fixture
def plain(tiny_sd_checkpoint):
    return open_checkpoint(str(tiny_sd_checkpoint("sd1-small")))


@pytest.mark.parametrize("base", ["sd1", "sd1-small", "xl", "xl-three"])
def test_cross_attentions_are_in_diffusers_order(tiny_sd_checkpoint, base):
    unet = diffusers.UNet2DConditionModel.from_pretrained(tiny_sd_checkpoint(base) / "unet")
    expected = [
        (name.removesuffix(".processor"), unet.get_submodule(name.removesuffix(".processor")).to_q.in_features)
        for name in unet.attn_processors
        if name.endswith("attn2.processor")
    ]
    assert [(layer.name, layer.width) for layer in cross_attention_layers(unet.config)] == expected


def test_a_denoiser_without_adapters_takes_no_image_prompts(plain):
    assert not any(is_image_prompt_input(spec.name) for spec in plain.component("unet").inputs)


def test_joined_ones_are_numbered_and_recorded(plain, tiny_ip_adapter):
    files = [str(tiny_ip_adapter("sd1-small", kind)) for kind in ("plain", "plus")]
    checkpoint = plain.with_ip_adapters(files)
    names = [component.name for component in checkpoint.components]
    assert names[-3:] == ["ip_adapter", "ip_adapter_1", "image_encoder"]
    assert [component.network for component in checkpoint.components][-3:] == [
        "ImageProjection",
        "IPAdapterPlusImageProjection",
        "CLIPVisionModelWithProjection",
    ]
    index = checkpoint.bundle_model_index()
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["image_encoder"] == ["transformers", "CLIPVisionModelWithProjection"]
    assert not any(name.startswith("ip_adapter") for name in index)
    sums = checkpoint.identity()
    assert {"ip_adapter/ip-adapter-plain.safetensors", "ip_adapter_1/ip-adapter-plus.safetensors"} <= set(sums)
    recipe = make_recipe(checkpoint, ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),)))
    assert (recipe.ip_adapters, recipe.image_encoder) == (tuple(files), None)
    assert from_json(Recipe, to_json(recipe)) == recipe
    assert open_recipe(recipe).identity() == sums
    assert Checkpoint.reopen(json.loads(json.dumps(checkpoint.describe()))).identity() == sums


def test_the_reference_is_that_of_load_ip_adapter(plain, tiny_sd_checkpoint, tiny_ip_adapter):
    files = [tiny_ip_adapter("sd1-small", kind) for kind in ("plain", "full", "plus")]
    ours = reference_pipeline(plain.with_ip_adapters([str(file) for file in files]))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd_checkpoint("sd1-small"))
    theirs.load_ip_adapter(str(files[0].parent), subfolder="", weight_name=[file.name for file in files])
    mine, other = ours.unet.state_dict(), theirs.unet.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert ours.feature_extractor.to_dict() == theirs.feature_extractor.to_dict()
    assert ours.unet.config.encoder_hid_dim_type == theirs.unet.config.encoder_hid_dim_type


def test_a_folder_with_one_file_and_an_encoder_elsewhere(plain, own_adapter, tmp_path):
    encoder = own_adapter.parent / "image_encoder"
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(own_adapter, folder)
    with pytest.raises(
        CheckpointError, match="got no folder 'image_encoder' beside it, expected the image encoder that"
    ):
        plain.with_ip_adapters([str(folder)])
    checkpoint = plain.with_ip_adapters([str(folder)], str(encoder))
    assert checkpoint.folder("image_encoder") == encoder
    assert checkpoint.image_encoder == str(encoder)
    with pytest.raises(
        CheckpointError, match="got a folder with 2 of them: ip-adapter-plain.safetensors, ip-adapter-pl"
    ):
        plain.with_ip_adapters([str(own_adapter.parent)])
    with pytest.raises(CheckpointError, match="--image-encoder: got 'nowhere', expected the folder of a CLIPVision"):
        plain.with_ip_adapters([str(folder)], "nowhere")
    with pytest.raises(CheckpointError, match="--image-encoder: got 'nowhere' without --ip-adapter; pass both"):
        plain.with_ip_adapters([], "nowhere")


def test_random_weights_keep_the_adapter(tiny_sd_checkpoint, tiny_ip_adapter):
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint("sd1-small")), random_weights=True)
    file = tiny_ip_adapter("sd1-small", "plain")
    projection = checkpoint.with_ip_adapters([str(file)]).load("ip_adapter")
    torch.testing.assert_close(projection.image_embeds.weight, load_file(file)["image_proj.proj.weight"])


def spoiled(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_other_files_than_fitting_adapters_are_refused(
    plain, own_adapter, tiny_ip_adapter, tiny_sd_checkpoint, tmp_path
):
    name = str(own_adapter)
    with pytest.raises(CheckpointError, match="--ip-adapter: got 'nowhere', expected a .safetensors file with an IP-"):
        plain.with_ip_adapters(["nowhere"])
    with pytest.raises(CheckpointError, match="got an IP-Adapter for face embeddings, or of an unknown kind, which is"):
        plain.with_ip_adapters([str(tiny_ip_adapter("sd1-small", "face"))])
    other = open_checkpoint(str(tiny_sd_checkpoint("sd1")))
    with pytest.raises(
        CheckpointError, match="got weights for 4 cross attentions, but the UNet has 7; it was made for"
    ):
        other.with_ip_adapters([name])
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="--ip-adapter: .*x.bin is a pickled file, which can run code when read"):
        plain.with_ip_adapters([str(tmp_path / "x.bin")])
    variation = open_checkpoint(str(tiny_sd_checkpoint("variation")))
    with pytest.raises(
        CheckpointError, match="got one with a StableDiffusionImageVariationPipeline, which takes no im"
    ):
        variation.with_ip_adapters([name])
    encoder = own_adapter.parent / "image_encoder/config.json"
    edit(encoder, projection_dim=20)
    with pytest.raises(ConfigError, match=r"embeddings of width 24, but the image encoder makes 20 \(projection_dim\)"):
        plain.with_ip_adapters([name])
    edit(encoder, projection_dim=24)
    spoiled(own_adapter, lambda tensors: tensors.pop("ip_adapter.7.to_k_ip.weight"))
    with pytest.raises(CheckpointError, match="got weights for 3 cross attentions, but the UNet has 4"):
        plain.with_ip_adapters([name])
    keys = {f"ip_adapter.{number}.to_k_ip.weight": torch.zeros(64, 40) for number in (1, 3, 5, 7)}
    spoiled(own_adapter, lambda tensors: tensors.update(keys))
    with pytest.raises(CheckpointError, match=r"cross attentions of \[64, 64, 64, 64\] channels, but the UNet has \["):
        plain.with_ip_adapters([name])
    shapes = [
        layer.width for layer in cross_attention_layers(json.loads((plain.folder("unet") / "config.json").read_text()))
    ]
    keys = {f"ip_adapter.{2 * i + 1}.to_k_ip.weight": torch.zeros(width, 40) for i, width in enumerate(shapes)}
    spoiled(own_adapter, lambda tensors: tensors.update(keys))
    with pytest.raises(
        ConfigError, match="got an IP-Adapter for prompts of width 40, but the UNet has 32; it was made"
    ):
        plain.with_ip_adapters([name])
    spoiled(own_adapter, lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith("ip_adapter")])
    with pytest.raises(CheckpointError, match="got no IP-Adapter, expected tensors image_proj"):
        plain.with_ip_adapters([name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"up_block_types": ["UpBlock2D"]}, r"'up_block_types': got \['UpBlock2D'\], expected 2 names of blocks"),
        (
            {"transformer_layers_per_block": [1]},
            r"'transformer_layers_per_block': got \[1\], expected one number, or",
        ),
    ],
)
def test_damaged_configs_of_the_unet_are_refused(plain, changes, message):
    config = json.loads((plain.folder("unet") / "config.json").read_text())
    with pytest.raises(ConfigError, match=f"unet/config.json: field {message}"):
        cross_attention_layers({**config, **changes})


def test_edited_attention_and_adapters_are_two_bundles(plain, tiny_ip_adapter, tiny_t2i_adapter):
    prompted = plain.with_ip_adapters([str(tiny_ip_adapter("sd1-small", "plain"))])
    adapted = plain.with_t2i_adapters([str(tiny_t2i_adapter("sd1-small", "full"))])
    for checkpoint in (prompted, adapted):
        with pytest.raises(CheckpointError, match="--attention-control: got a checkpoint with a T2I-Adapter or an"):
            checkpoint.with_attention_control()
