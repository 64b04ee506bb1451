"""--vae and --controlnet from one safetensors file, read as diffusers' `from_single_file` reads it."""

import json
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from single_files import ldm_unet, ldm_vae, write_tensors

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.runtime.errors import CheckpointError

UNITS = "diffusion_pytorch_model.safetensors"


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def ldm_controlnet(state, unet):
    """A ControlNet's tensors by the names of `cldm.cldm.ControlNet`; diffusers' conversion, the other way round."""
    hint = {f"blocks.{index}": 2 + 2 * index for index in range(6)} | {"conv_in": 0, "conv_out": 14}
    found, plain = {}, {}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        kind = name.rpartition(".")[2]
        if head == "controlnet_cond_embedding":
            found[f"input_hint_block.{hint[rest.rpartition('.')[0]]}.{kind}"] = tensor
        elif head == "controlnet_down_blocks":
            found[f"zero_convs.{rest.replace('.', '.0.')}"] = tensor
        elif head == "controlnet_mid_block":
            found[f"middle_block_out.0.{kind}"] = tensor
        else:
            plain[name] = tensor
    return {**found, **ldm_unet(plain, unet)}


@pytest.fixture
def other_vae(tiny_sd_checkpoint, tmp_path):
    """A VAE like the checkpoint's own, with other weights: a folder."""
    torch.manual_seed(1)
    config = diffusers.AutoencoderKL.load_config(tiny_sd_checkpoint() / "vae")
    diffusers.AutoencoderKL.from_config(config).save_pretrained(tmp_path / "other vae")
    return tmp_path / "other vae"


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_vae(tiny_sd_checkpoint, other_vae, tmp_path, monkeypatch, prefix, dtype):
    """vae-ft-mse-840000-ema-pruned.safetensors has no prefix, a whole checkpoint has one, None: diffusers' names."""
    state = load_file(other_vae / UNITS)
    config = json.loads((other_vae / "config.json").read_text())
    named = state if prefix is None else {f"{prefix}{name}": x for name, x in ldm_vae(state, config).items()}
    if prefix == "":
        named["loss.logvar"] = torch.zeros(())  # left by the training
    path = write_tensors({name: tensor.to(dtype) for name, tensor in named.items()}, tmp_path / "vae.safetensors")
    monkeypatch.chdir(tmp_path)
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint()), vae="vae.safetensors")
    described, identity = json.dumps(checkpoint.describe()), checkpoint.identity()
    monkeypatch.chdir("/")
    again = Checkpoint.reopen(json.loads(described))
    loaded = diffusers.AutoencoderKL.from_single_file(str(path), config=str(other_vae), local_files_only=True)
    expected = {name: tensor.to(dtype).float() for name, tensor in state.items()}
    assert same(loaded.float().state_dict(), expected)
    assert same(again.load("vae_decoder").state_dict(), expected)
    names = [name for name in again.identity() if name.startswith("vae/")]
    assert names == ["vae/config.json", f"vae/{'vae.safetensors' if prefix is not None else UNITS}"]
    assert identity == again.identity()
    assert [component.name for component in again.components] == ["text_encoder", "unet", "vae_encoder", "vae_decoder"]


def test_a_tiny_vae(tiny_sd_checkpoint, tmp_path):
    """With the widths of TAESD, which need no config."""
    diffusers.AutoencoderTiny().save_pretrained(tmp_path / "taesd")
    path = tmp_path / "taesd.safetensors"
    shutil.move(tmp_path / "taesd" / UNITS, path)
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint()), vae=str(path))
    assert checkpoint.bundle_model_index()["vae"] == ["diffusers", "AutoencoderTiny"]
    assert same(checkpoint.load("vae").state_dict(), load_file(path))


@pytest.mark.parametrize("base", ["sd1", "xl"])
@pytest.mark.parametrize("prefix", ["control_model.", "", None])
def test_a_controlnet(tiny_sd_checkpoint, tiny_controlnet, tmp_path, monkeypatch, base, prefix):
    folder, root = tiny_controlnet(base), tiny_sd_checkpoint(base)
    state = load_file(folder / UNITS)
    unet = json.loads((root / "unet/config.json").read_text())
    named = state if prefix is None else {f"{prefix}{name}": x for name, x in ldm_controlnet(state, unet).items()}
    path = write_tensors(named, tmp_path / "control net.safetensors")
    if base == "sd1":  # of XL, diffusers does not know the original names
        loaded = diffusers.ControlNetModel.from_single_file(str(path), config=str(folder), local_files_only=True)
        assert same(loaded.state_dict(), state)
    monkeypatch.chdir(tmp_path)
    described = json.dumps(open_checkpoint(str(root)).with_controlnets(["control net.safetensors"]).describe())
    monkeypatch.chdir("/")
    again = Checkpoint.reopen(json.loads(described))
    assert same(again.load("controlnet").state_dict(), state)
    own = diffusers.ControlNetModel.load_config(folder)
    found = again.load("controlnet").config
    assert {key for key in own if not key.startswith("_") and found[key] != own[key]} == set()


def test_refusals(tiny_sd_checkpoint, other_vae, tmp_path):
    def write(**names):
        save_file({name.replace("__", "."): torch.ones(1) for name in names}, tmp_path / "x.safetensors")
        return str(tmp_path / "x.safetensors")

    root = str(tiny_sd_checkpoint())
    with pytest.raises(CheckpointError, match=r"--vae .*x\.safetensors: looks like a LoRA, .*; expected a VAE"):
        open_checkpoint(root, vae=write(lora_unet_a=1))
    with pytest.raises(
        CheckpointError, match=r"weights are missing: .*; got a file without them, expected all of the VAE"
    ):
        open_checkpoint(root, vae=write(encoder__down__0__block__0__conv1__weight=1)).load("vae")
    tiny = str(tiny_sd_checkpoint("sd1-tiny"))
    with pytest.raises(CheckpointError, match="got an AutoencoderKL without config.json, and the checkpoint has none"):
        open_checkpoint(tiny, vae=write(encoder__down__0__block__0__conv1__weight=1))
    plain = open_checkpoint(root)
    for name, kind in {
        "lora_controlnet": "Control-LoRA",
        "difference": "difference to",
        "task_embedding": "union",
    }.items():
        with pytest.raises(CheckpointError, match=f"--controlnet .*: looks like a .*{kind}.*, which is not supported"):
            plain.with_controlnets([write(**{name: 1})])
    with pytest.raises(CheckpointError, match="--controlnet .*: got no UNet .*; expected a ControlNet in the names of"):
        plain.with_controlnets([write(nothing=1)])
    (tmp_path / "gone.safetensors").symlink_to("nowhere")
    with pytest.raises(
        CheckpointError, match=r"--vae: .*gone\.safetensors: is a link to nowhere, which does not exist"
    ):
        open_checkpoint(root, vae=str(tmp_path / "gone.safetensors"))
    with pytest.raises(
        CheckpointError, match=r"--controlnet: .*gone\.safetensors: is a link to nowhere, which does not"
    ):
        plain.with_controlnets([str(tmp_path / "gone.safetensors")])
    (tmp_path / "x.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"--vae: .*x\.pt is a pickled file.* 'diffoundry convert .*x\.pt -o NEW"):
        open_checkpoint(root, vae=str(tmp_path / "x.pt"))
    (tmp_path / "x.safetensors").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"--controlnet: .*x\.safetensors: is a web page"):
        plain.with_controlnets([str(tmp_path / "x.safetensors")])
