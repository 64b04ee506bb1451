"""Files that cannot be read, or hold something else: found when a checkpoint is opened, before any job."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.runtime.errors import CheckpointError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438167540\n"
TOKENIZER = {"tokenizer/vocab.json", "tokenizer/tokenizer.json", "tokenizer/merges.txt"}
FILES = {
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "scheduler/scheduler_config.json",
    "model_index.json",
    *TOKENIZER,
}


def refusal(root, **options):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(root), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_link_to_nowhere(own_checkpoint, name):
    path = own_checkpoint / name
    path.unlink()
    path.symlink_to("../../blobs/00ff")
    message = refusal(own_checkpoint)
    assert message.endswith(
        f"{name}: is a link to ../../blobs/00ff, which does not exist; the download is incomplete or the cache was "
        f"pruned, download it again"
    )


def test_a_folder_that_is_a_link_to_nowhere(own_checkpoint):
    shutil.rmtree(own_checkpoint / "unet")
    (own_checkpoint / "unet").symlink_to("../gone")
    assert "own/unet: is a link to ../gone, which does not exist" in refusal(own_checkpoint)


def test_a_link_to_nowhere_as_the_model(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("gone")
    assert "is a link to gone, which does not exist" in refusal(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", sorted(FILES - TOKENIZER))
def test_a_git_lfs_pointer(own_checkpoint, name):
    (own_checkpoint / name).write_text(POINTER)
    assert refusal(own_checkpoint).endswith(
        f"{name}: is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder"
    )


def test_a_web_page_and_a_folder_instead_of_weights(own_checkpoint):
    path = own_checkpoint / "vae/diffusion_pytorch_model.safetensors"
    path.write_text("<!doctype html><html>")
    assert "vae/diffusion_pytorch_model.safetensors: is a web page, not the file itself" in refusal(own_checkpoint)
    path.unlink()
    path.mkdir()
    assert "vae/diffusion_pytorch_model.safetensors: cannot be read (Is a directory)" in refusal(own_checkpoint)


def test_a_script_as_the_model(tmp_path):
    (tmp_path / "crop.py").write_text("import os\n")
    assert "crop.py': got a .py file, which is no checkpoint, expected a diffusers folder" in refusal(
        tmp_path / "crop.py"
    )


def test_random_weights_need_no_weights(own_checkpoint):
    for path in own_checkpoint.glob("*/*.safetensors"):
        path.unlink()
    open_checkpoint(str(own_checkpoint), random_weights=True)


def scale(tensors):
    return {**tensors, "conv_in.scale_weight": torch.ones(1)}


def pack(tensors):
    return {**tensors, "conv_in.weight.absmax": torch.ones(1)}


def integers(tensors):
    return {**tensors, "conv_in.weight": tensors["conv_in.weight"].to(torch.int8)}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (scale, r"weights with scales beside them \(tensor conv_in\.scale_weight\)"),
        (pack, r"packed weights \(tensor conv_in\.weight\.absmax\)"),
        (integers, r"tensor conv_in\.weight of the type I8"),
    ],
)
def test_quantized_weights_get_one_sentence(own_checkpoint, change, found):
    path = own_checkpoint / "unet/diffusion_pytorch_model.safetensors"
    save_file(change({name: tensor.clone() for name, tensor in load_file(path).items()}), path)
    with pytest.raises(CheckpointError, match=rf"{found}, expected F64.*quantized files are not supported, download"):
        open_checkpoint(str(own_checkpoint))


def test_a_quantization_config(own_checkpoint):
    path = own_checkpoint / "unet/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))
    message = refusal(own_checkpoint)
    assert "unet/config.json: got weights quantized by 'bitsandbytes', which are not supported; expected a" in message


def test_a_gguf_file(tmp_path):
    for name in ("model.gguf", "model.safetensors"):
        (tmp_path / name).write_bytes(b"GGUF\x03\0\0\0" + bytes(99))
        assert f"{name}: is a GGUF file, whose quantized weights are not supported" in refusal(tmp_path / name)


def test_deleted_folders_name_the_option(tiny_sd_checkpoint, tmp_path):
    root = shutil.copytree(tiny_sd_checkpoint("sd1-checked"), tmp_path / "c")
    shutil.rmtree(root / "feature_extractor")
    message = "got no folder 'feature_extractor', although model_index.json names CLIPImageProcessorPil for it; the ch"
    assert message in refusal(root)
    shutil.rmtree(root / "safety_checker")
    assert refusal(root).endswith("download it again, or pass --no-safety-checker")
    open_checkpoint(str(root), without=["safety_checker"])


def test_a_community_pipeline(own_checkpoint):
    path = own_checkpoint / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": ["my_pipeline", "MyPipeline"]}))
    assert "names the community pipeline MyPipeline with code in my_pipeline.py, which is not run" in refusal(
        own_checkpoint
    )


def test_relative_paths_and_spaces(own_checkpoint, tmp_path, monkeypatch):
    """Another process, in another folder, opens the same checkpoint from its description."""
    from diffoundry.exporter.checkpoints.checkpoint import Checkpoint

    shutil.move(own_checkpoint, tmp_path / "my own checkpoint")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    described = open_checkpoint("my own checkpoint", vae="my own checkpoint/vae").describe()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Checkpoint.reopen(json.loads(json.dumps(described)))
    assert again.load("vae_decoder").config.latent_channels == 4
