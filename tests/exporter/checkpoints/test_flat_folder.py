"""Checkpoints whose network lies beside model_index.json, as google/ddpm-cifar10-32, from a folder and from a hub."""

import shutil

import diffusers
import huggingface_hub.constants
import pytest
import torch
from fake_hub import serve, use_endpoint

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.checkpoints.flat_folder import flat_network, spread_flat_folder
from diffoundry.exporter.checkpoints.hub import download

UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}


@pytest.fixture
def flat(tmp_path):
    """A checkpoint in today's layout, and the same one in the layout of the first ones."""
    pipeline = diffusers.DDPMPipeline(unet=diffusers.UNet2DModel(**UNET), scheduler=diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "today")
    (tmp_path / "flat").mkdir()
    for path in (tmp_path / "today").rglob("*.*"):
        shutil.copyfile(path, tmp_path / "flat" / path.name)
    return tmp_path / "today", tmp_path / "flat"


def test_a_flat_folder_is_the_same_checkpoint(flat):
    today, first = (open_checkpoint(str(folder)) for folder in flat)
    assert first.identity() == today.identity()
    assert first.scheduler_configs == today.scheduler_configs
    theirs = diffusers.DDPMPipeline.from_pretrained(flat[1]).unet
    for name, weight in first.load("unet").state_dict().items():
        assert torch.equal(weight, theirs.state_dict()[name]), name
    assert spread_flat_folder(flat[0]) == flat[0]
    assert {name for _, name in first.bundle_files()} == {"unet/config.json", "scheduler/scheduler_config.json"}


def test_only_its_files_are_downloaded(flat, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    (flat[1] / "README.md").write_text("not needed")
    hub = next(server := serve(flat[1]))
    root = download("org/model", endpoint=hub.address)
    assert set(hub.asked) == {
        "model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"
    }  # fmt: skip
    assert flat_network({"unet": ["diffusers", "UNet2DModel"]}, ()) == "unet"
    assert open_checkpoint(str(root)).identity() == open_checkpoint(str(flat[0])).identity()
    server.close()
