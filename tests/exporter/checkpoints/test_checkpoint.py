"""Checkpoints: found, checked, described, and refused with one sentence each."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from diffoundry.exporter.checkpoints.aliases import read_aliases
from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.runtime.bundle.specs import DimSpec
from diffoundry.runtime.errors import CheckpointError, ConfigError

COMPONENTS = ["text_encoder", "unet", "vae_encoder", "vae_decoder"]


def edit(path, **changes):
    """Change fields of a JSON file; None as a value is JSON's null."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folder(tiny_sd_checkpoint):
    root = tiny_sd_checkpoint()
    checkpoint = open_checkpoint(str(root))
    assert checkpoint.name == str(root)
    assert checkpoint.family.name == "stable_diffusion"
    assert [component.name for component in checkpoint.components] == COMPONENTS
    assert [kind.name for kind in checkpoint.family.components] == COMPONENTS
    assert checkpoint.component("vae_decoder").source == "vae"
    assert checkpoint.scheduler_config["_class_name"] == "PNDMScheduler"
    assert checkpoint.tokenizer_folders == ("tokenizer",)
    assert checkpoint.dims == dict.fromkeys(("height", "width"), DimSpec(multiple_of=8))
    assert checkpoint.notices() == []


def test_emoji_is_installed():
    checkpoint = open_checkpoint("emoji")
    assert checkpoint.scheduler_config["prediction_type"] == "v_prediction"
    assert checkpoint.root.parts[-2:] == ("models", "emoji")


def test_another_process_opens_the_same(tiny_sd_checkpoint, monkeypatch):
    root = tiny_sd_checkpoint()
    monkeypatch.chdir(root.parent)
    described = open_checkpoint(root.name, random_weights=True, seed=5).describe()
    monkeypatch.chdir("/")
    again = Checkpoint.reopen(json.loads(json.dumps(described)))
    assert (again.name, again.root, again.seed) == (root.name, root, 5)


def test_opening_loads_no_torch(tiny_sd_checkpoint):
    script = (
        "import sys; from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint; "
        f"open_checkpoint({str(tiny_sd_checkpoint())!r}).identity(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_identity_follows_weights_and_configs(own_checkpoint):
    names = {"text_encoder/config.json", "unet/config.json", "vae/config.json"} | {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    first = open_checkpoint(str(own_checkpoint)).identity()
    assert set(first) == names
    edit(own_checkpoint / "unet/config.json", sample_size=16)
    weights = own_checkpoint / "vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    second = open_checkpoint(str(own_checkpoint)).identity()
    assert {name for name in names if first[name] != second[name]} == {
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_identity_of_random_weights(own_checkpoint):
    first = open_checkpoint(str(own_checkpoint), random_weights=True, seed=3).identity()
    assert first["random_weights_seed"] == "3"
    assert set(first) == {"random_weights_seed", "text_encoder/config.json", "unet/config.json", "vae/config.json"}


def test_files_that_a_bundle_copies(own_checkpoint):
    (own_checkpoint / "tokenizer/leftover.bin").write_bytes(b"x")
    files = {name: source for source, name in open_checkpoint(str(own_checkpoint)).bundle_files()}
    assert set(files) == {
        *(f"{name}/config.json" for name in COMPONENTS),
        "scheduler/scheduler_config.json",
        *(f"tokenizer/{name}" for name in ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")),
    }
    assert files["vae_decoder/config.json"] == own_checkpoint / "vae/config.json"


def test_notices_name_components_left_out(own_checkpoint):
    index = own_checkpoint / "model_index.json"
    encoder = ["transformers", "CLIPVisionModelWithProjection"]
    edit(index, image_encoder=encoder, feature_extractor=["transformers", "CLIPImageProcessor"])
    edit(index, requires_safety_checker=True)
    checkpoint = open_checkpoint(str(own_checkpoint))
    assert checkpoint.notices() == ["image_encoder of the checkpoint is left out: only --ip-adapter needs it"]
    carried = checkpoint.bundle_model_index()
    assert carried["image_encoder"] == carried["feature_extractor"] == [None, None]
    assert carried["requires_safety_checker"] is False
    assert carried["unet"] == ["diffusers", "UNet2DConditionModel"]


def test_the_safety_checker_comes_along_unless_it_is_left_out(tiny_sd_checkpoint):
    root = tiny_sd_checkpoint("sd1-checked")
    checkpoint = open_checkpoint(str(root))
    assert [component.name for component in checkpoint.components] == [*COMPONENTS, "safety_checker"]
    assert checkpoint.notices() == []
    assert checkpoint.bundle_model_index() == checkpoint.model_index
    assert {name for _, name in checkpoint.bundle_files()} >= {
        "safety_checker/config.json",
        "feature_extractor/preprocessor_config.json",
    }
    assert "safety_checker/model.safetensors" in checkpoint.identity()
    less = open_checkpoint(str(root), without=["safety_checker"])
    again = Checkpoint.reopen(json.loads(json.dumps(less.describe())))
    for one in (less, again):
        assert [component.name for component in one.components] == COMPONENTS
        assert one.notices() == []
        carried = one.bundle_model_index()
        assert carried["safety_checker"] == carried["feature_extractor"] == [None, None]
        assert carried["requires_safety_checker"] is False
        assert not any("safety" in name or "feature" in name for name in one.identity())


def test_a_safety_checker_needs_a_feature_extractor(tiny_sd_checkpoint, tmp_path):
    root = shutil.copytree(tiny_sd_checkpoint("sd1-checked"), tmp_path / "c")
    (root / "feature_extractor/preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"feature_extractor/preprocessor_config.json: cannot be read"):
        open_checkpoint(str(root))
    open_checkpoint(str(root), without=["safety_checker"])


def test_notices_mention_random_weights(tiny_sd_checkpoint):
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint()), random_weights=True, seed=7)
    random = "weights are random (seed 7): good for measuring, not for images"
    assert checkpoint.notices() == [random]
    assert open_checkpoint("sd21", random_weights=True, seed=7).notices() == [random]


def remove(name):
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def write(name, text):
    return lambda root: (root / name).write_text(text)


def change(name, **fields):
    return lambda root: edit(root / name, **fields)


def without_vocabulary(root):
    for name in ("tokenizer.json", "vocab.json"):
        (root / "tokenizer" / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("model_index.json"), r"got a folder without model_index\.json, expected a diffusers folder"),
        (write("model_index.json", "{,"), r"model_index\.json: is no valid JSON \(.*line 1"),
        (write("model_index.json", "[]"), r"model_index\.json: got list, expected a JSON object"),
        (
            change("model_index.json", _class_name=None),
            "got no '_class_name', expected the name of a diffusers pipeline",
        ),
        (
            change("model_index.json", _class_name="CogVideoXPipeline"),
            r"^CogVideoX is not supported yet \(model_index.json has CogVideoXPipeline\); supported: Stable",
        ),
        (
            change("model_index.json", _class_name="StableDifusionPipeline"),
            r"reference/pipelines\.md\. Did you mean 'StableDiffusionPipeline'\?",
        ),
        (
            change("model_index.json", unet=["os", "system"]),
            "component 'unet': got os:system, expected diffusers:UNet2DConditionModel in a StableDiffusionPipeline",
        ),
        (change("model_index.json", unet=None), "component 'unet': got None, expected diffusers:UNet2DConditionModel"),
        (
            change("model_index.json", **{"../unet": ["diffusers", "UNet2DConditionModel"]}),
            r"names '\.\./unet', expected no path; the checkpoint is not trusted",
        ),
        (
            change("model_index.json", scheduler=["diffusers", "a/b"]),
            "names 'a/b', expected no path; the checkpoint is not trusted",
        ),
        (remove("unet"), r"own: got no folder 'unet', although model_index\.json names UNet2DConditionModel for it"),
        (remove("vae"), r"got no folder 'vae', .* AutoencoderKL for it; .* download it again, or pass --vae"),
        (remove("vae/config.json"), r"vae/config\.json: cannot be read"),
        (write("vae/config.json", "\0"), r"vae/config\.json: is no valid JSON"),
        (remove("scheduler/scheduler_config.json"), r"scheduler_config\.json: cannot be read"),
        (
            without_vocabulary,
            r"got no vocabulary, expected tokenizer\.json, vocab\.json with merges\.txt, spiece\.model, sen",
        ),
        (remove("tokenizer"), r"tokenizer: got no vocabulary"),
        (
            change("model_index.json", safety_checker=7),
            r"component 'safety_checker': got 7, expected \[library, class\]",
        ),
        (
            change("model_index.json", unet=["diffusers"]),
            r"component 'unet': got \['diffusers'\], expected \[library, c",
        ),
        (change("model_index.json", vae=[7, "x"]), r"component 'vae': got \[7, 'x'\], expected \[library, class\] or"),
    ],
)
def test_a_spoiled_folder_is_refused(own_checkpoint, spoil, message):
    spoil(own_checkpoint)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(own_checkpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_embed_type": "timestep"}, "field 'class_embed_type': got 'timestep', expected null"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "field 'encoder_hid_dim_type'"),
        ({"cross_attention_dim": [32, 64, 64]}, r"'cross_attention_dim': got \[32, 64, 64\], expected one number"),
        (
            {"addition_embed_type": "image", "encoder_hid_dim": 8},
            "field 'addition_embed_type': got 'image', expected null",
        ),
        ({"addition_embed_type": "text_time"}, "checkpoint with a text_encoder_2"),
        ({"in_channels": "4"}, r"unet/config\.json: field 'in_channels': got '4', expected a whole number from 1 to"),
        ({"block_out_channels": 0}, r"field 'block_out_channels': got 0, expected a list of 1 to 64 whole numbers"),
        ({"cross_attention_dim": {}}, r"field 'cross_attention_dim': got {}, expected a whole number"),
        ({"time_cond_proj_dim": 0.0}, r"field 'time_cond_proj_dim': got 0.0, expected a whole number from 4"),
    ],
)
def test_a_network_of_another_kind_is_refused(own_checkpoint, fields, message):
    edit(own_checkpoint / "unet/config.json", **fields)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(str(own_checkpoint))


def test_a_name_that_is_nothing():
    names = [name for name, alias in read_aliases().items() if alias.configs is not None]
    aliases = rf"\({', '.join(sorted(names))}\)"
    forms = (
        rf"expected a diffusers folder, a single \.safetensors file, a hub id such as org/name, or an alias {aliases}"
    )
    for model in ("sd99", "./no/such/folder", "", "a/b/c"):
        with pytest.raises(
            CheckpointError, match=re.escape(f"model {model!r}: no folder or file {model!r} here, ") + forms
        ):
            open_checkpoint(model)


def test_random_weights_need_configs():
    with pytest.raises(CheckpointError, match="model 'org/name': got no config to build with random weights"):
        open_checkpoint("org/name", random_weights=True)


def project(root):
    """Replace a text encoder by one with a projection of the same width."""
    import transformers

    encoder = transformers.CLIPTextModel.from_pretrained(root / "text_encoder")
    shutil.rmtree(root / "text_encoder")
    config = transformers.CLIPTextConfig.from_dict({**encoder.config.to_dict(), "projection_dim": 24})
    transformers.CLIPTextModelWithProjection(config).save_pretrained(root / "text_encoder")
    edit(root / "model_index.json", text_encoder=["transformers", "CLIPTextModelWithProjection"])


def test_a_text_encoder_with_a_projection(tiny_sd_checkpoint, own_checkpoint, tmp_path):
    """diffusers takes it as the first of XL; in Stable Diffusion 1 it fails, so another class is named."""
    import torch
    import transformers

    project(own_checkpoint)
    with pytest.raises(CheckpointError, match=r"write CLIPTextModel there, which reads the same weights without their"):
        open_checkpoint(str(own_checkpoint))
    edit(own_checkpoint / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
    loaded = open_checkpoint(str(own_checkpoint)).load("text_encoder").state_dict()
    expected = transformers.CLIPTextModel.from_pretrained(own_checkpoint / "text_encoder").state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    root = shutil.copytree(tiny_sd_checkpoint("xl"), tmp_path / "xl")
    plain = open_checkpoint(str(root)).component("text_encoder")
    project(root)
    component = open_checkpoint(str(root)).component("text_encoder")
    assert component.network == "CLIPTextModelWithProjection"
    assert {spec.name for spec in component.outputs} - {spec.name for spec in plain.outputs} == {"text_embeds"}
