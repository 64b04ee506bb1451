"""LoRAs added before the export: the weights of diffusers' `fuse_lora`, and what the recipe says of it."""

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.checkpoints.deferred_weights import deferred_weights
from diffoundry.exporter.cli.export import read_loras
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import CheckpointError, InputError


def open_diffusers(folder):
    return diffusers.StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def lora(tiny_sd_checkpoint, tmp_path_factory):
    """A random LoRA of UNet and text encoder, convolutions among its layers, that PEFT made and diffusers saved."""
    peft = pytest.importorskip("peft", reason="diffusers loads LoRAs with it")
    pipe = open_diffusers(tiny_sd_checkpoint())
    torch.manual_seed(0)
    states = {}
    for part, layers in (("unet", ["to_q", "to_out.0", "proj_in", "conv1"]), ("text_encoder", ["q_proj", "fc1"])):
        config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=layers, init_lora_weights=False)
        getattr(pipe, part).add_adapter(config)
        states[part] = peft.get_peft_model_state_dict(getattr(pipe, part))
    folder = tmp_path_factory.mktemp("lora")
    pipe.save_lora_weights(folder, unet_lora_layers=states["unet"], text_encoder_lora_layers=states["text_encoder"])
    return folder / "pytorch_lora_weights.safetensors"


def test_weights_are_those_of_fuse_lora(tiny_sd_checkpoint, lora):
    pipe = open_diffusers(tiny_sd_checkpoint())
    pipe.load_lora_weights(str(lora))
    pipe.fuse_lora(lora_scale=0.7)
    pipe.unload_lora_weights()
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint()))
    fused = Checkpoint.reopen(checkpoint.with_loras(read_loras([f"{lora}:0.7"])).describe())
    for part in ("unet", "text_encoder", "vae"):
        ours, plain = fused.load(part).state_dict(), checkpoint.load(part).state_dict()
        changed = [name for name in ours if not torch.equal(ours[name], plain[name])]
        theirs = getattr(pipe, part).state_dict()
        assert ours.keys() == theirs.keys()
        for name, weight in ours.items():
            torch.testing.assert_close(weight, theirs[name], rtol=1e-6, atol=1e-6, msg=name)
        assert len(changed) == {"unet": 14 + 14 + 7 + 11, "text_encoder": 4, "vae": 0}[part]
        module = fused.load(part, deferred=True)
        for name, weight in module.state_dict().items():
            assert torch.equal(deferred_weights(module).read(weight), ours[name]), name


def test_the_recipe_has_file_scale_and_sum(tiny_sd_checkpoint, lora):
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint())).with_loras(read_loras([str(lora), f"{lora}:-0.5"]))
    recipe = make_recipe(checkpoint, ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),)))
    assert [(fused.file, fused.scale) for fused in recipe.loras] == [(str(lora), 1.0), (str(lora), -0.5)]
    assert {fused.sha256 for fused in recipe.loras} == {recipe.source[f"lora {lora}:1"]}
    assert recipe.source[f"lora {lora}:-0.5"] == recipe.loras[1].sha256


def test_a_file_that_was_changed_meanwhile(tiny_sd_checkpoint, lora, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(lora.read_bytes())
    checkpoint = open_checkpoint(str(tiny_sd_checkpoint())).with_loras(read_loras([str(path)]))
    save_file({name: tensor + 1 for name, tensor in load_file(lora).items()}, path)
    with pytest.raises(CheckpointError, match=r"LoRA .*x\.safetensors: got SHA-256 .*it was changed since the export"):
        checkpoint.load("text_encoder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing.safetensors", "--lora: got 'missing.safetensors', which is no file"),
        ("x.safetensors:big", "--lora: got 'x.safetensors:big', expected FILE or FILE:SCALE"),
        ("x.ckpt", "x.ckpt: is a pickled file"),
    ],
)
def test_a_file_that_is_no_lora_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        list(read_loras([text]))


def test_a_lora_for_another_model(tiny_sd_checkpoint, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 2)}, path)
    with pytest.raises(InputError, match="is for a text_encoder_2, expected one for text_encoder"):
        open_checkpoint(str(tiny_sd_checkpoint())).with_loras(read_loras([str(path)])).load("text_encoder")
