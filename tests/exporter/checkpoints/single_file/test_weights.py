"""The networks of a single file, bit by bit: those it was made of, and those that diffusers' own conversion gives."""

import json

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_diffusers_clip_model_from_ldm,
)
from single_files import write_tensors

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.runtime.errors import CheckpointError

VARIANTS = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "inpaint": "StableDiffusionInpaintPipeline",
    "instruct": "StableDiffusionInstructPix2PixPipeline",
    "xl": "StableDiffusionXLPipeline",
    "xl-inpaint": "StableDiffusionXLInpaintPipeline",
    "xl-instruct": "StableDiffusionXLInstructPix2PixPipeline",
    "xl-refiner": "StableDiffusionXLImg2ImgPipeline",
}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def converted_by_diffusers(tensors, folder, source):
    """The state dict that diffusers makes of a single file."""
    if source == "unet":
        return convert_ldm_unet_checkpoint(dict(tensors), diffusers.UNet2DConditionModel.load_config(folder / source))
    if source == "vae":
        return convert_ldm_vae_checkpoint(dict(tensors), diffusers.AutoencoderKL.load_config(folder / source))
    projects = source == "text_encoder_2"
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    known = {name: x for name, x in tensors.items() if "cond_stage_model.model.transformer.resblocks.2" not in name}
    made = create_diffusers_clip_model_from_ldm(kind, known, source, folder, torch.float32, local_files_only=True)
    return made.state_dict()


@pytest.mark.slow_cases("xl-instruct")
@pytest.mark.parametrize("variant", VARIANTS)
def test_they_are_those_of_the_folder_and_those_that_diffusers_converts(
    variant, tiny_sd_checkpoint, tiny_tensors, tiny_file, tiny_architecture
):
    folder, tensors = tiny_sd_checkpoint(variant), tiny_tensors(variant)
    tiny_architecture(variant)
    checkpoint = open_checkpoint(str(tiny_file(variant)))
    original = open_checkpoint(str(folder))
    assert checkpoint.model_index["_class_name"] == VARIANTS[variant]
    assert checkpoint.components == original.components
    for source in sorted({component.source for component in checkpoint.components}):
        module = checkpoint.load(source)
        state = module.state_dict()
        assert same(state, original.load(source).state_dict())
        assert same(state, converted_by_diffusers(tensors, folder, source))
        assert not module.training
        assert not any(weight.requires_grad or weight.is_meta for weight in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_widened(dtype, tiny_tensors, tiny_architecture, tmp_path):
    tensors = tiny_tensors("sd2")
    halves = {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}
    halves["model.diffusion_model.out.2.bias"] = tensors["model.diffusion_model.out.2.bias"] * 1e-9
    path = write_tensors(halves, tmp_path / "half.safetensors")
    tiny_architecture("sd2")
    checkpoint = open_checkpoint(str(path), prediction_type="v_prediction")
    state = checkpoint.load("unet").state_dict()
    assert {weight.dtype for weight in state.values()} == {torch.float32}
    widened = {name: x.float() for name, x in halves.items()}
    assert same(state, convert_ldm_unet_checkpoint(widened, {"layers_per_block": 1}))
    stored = widened["cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight"]
    layer = checkpoint.load("text_encoder").encoder.layers[1].self_attn
    assert torch.equal(torch.cat([layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]), stored)


def test_a_vae_by_its_short_prefix_and_with_linear_attention(tiny_tensors, tiny_architecture, tmp_path):
    tensors = tiny_tensors("sd1")
    attention = "first_stage_model.decoder.mid.attn_1.q.weight"
    assert tensors[attention].ndim == 4
    short = {name.replace("first_stage_model.", "vae."): x for name, x in tensors.items()}
    short[attention.replace("first_stage_model.", "vae.")] = tensors[attention][:, :, 0, 0]
    tiny_architecture("sd1")
    state = open_checkpoint(str(write_tensors(short, tmp_path / "a.safetensors"))).load("vae").state_dict()
    assert torch.equal(state["decoder.mid_block.attentions.0.to_q.weight"], tensors[attention][:, :, 0, 0])
    config = {"down_block_types": [""] * 4, "up_block_types": [""] * 4}
    assert same(state, convert_ldm_vae_checkpoint(short, config))


def test_another_process_opens_the_same(tiny_file, tiny_architecture, monkeypatch):
    path = tiny_file("sd1")
    tiny_architecture("sd1")
    monkeypatch.chdir(path.parent)
    described = open_checkpoint(path.name, prediction_type="v_prediction").describe()
    monkeypatch.chdir("/")
    again = Checkpoint.reopen(json.loads(json.dumps(described)))
    assert (again.name, again.file.path, again.seed) == (path.name, path, None)
    assert again.scheduler_config["prediction_type"] == "v_prediction"
    assert same(again.load("vae").state_dict(), open_checkpoint(str(path)).load("vae").state_dict())


def test_a_vae_from_another_folder_replaces_a_pruned_one(tiny_sd_checkpoint, tiny_tensors, tiny_architecture, tmp_path):
    folder, tensors = tiny_sd_checkpoint("sd1"), tiny_tensors("sd1")
    pruned = {name: x for name, x in tensors.items() if not name.startswith("first_stage_model.")}
    path = write_tensors(pruned, tmp_path / "pruned.safetensors")
    tiny_architecture("sd1")
    with pytest.raises(CheckpointError, match="without its VAE .* or name a VAE with --vae"):
        open_checkpoint(str(path))
    checkpoint = Checkpoint.reopen(open_checkpoint(str(path), vae=str(folder / "vae")).describe())
    original = open_checkpoint(str(folder))
    for source in ("vae", "unet"):
        assert same(checkpoint.load(source).state_dict(), original.load(source).state_dict())
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert checkpoint.identity()[weights] == original.identity()[weights]
    assert set(checkpoint.identity()) == {
        *(f"{name}/config.json" for name in ("text_encoder", "unet", "vae")),
        weights,
        path.name,
    }


def test_controlnets_are_joined(tiny_controlnet, tiny_file, tiny_architecture):
    path, controlnet = tiny_file("sd1"), tiny_controlnet("sd1")
    tiny_architecture("sd1")
    joined = open_checkpoint(str(path)).with_controlnets([str(controlnet)])
    again = Checkpoint.reopen(joined.describe())
    assert again.file.path == path
    assert again.components == joined.components
    expected = diffusers.ControlNetModel.from_pretrained(controlnet).state_dict()
    assert same(again.load("controlnet").state_dict(), expected)
    assert same(again.load("unet").state_dict(), joined.load("unet").state_dict())


def test_a_text_encoder_without_its_usual_prefix(tiny_tensors, tiny_architecture, tiny_sd_checkpoint, tmp_path):
    """As old merges have it, and as transformers 5 writes it."""
    tiny_architecture("sd1")
    prefix = "cond_stage_model.transformer."
    tensors = {name.replace(f"{prefix}text_model.", prefix): tensor for name, tensor in tiny_tensors("sd1").items()}
    assert not any("text_model" in name for name in tensors)
    checkpoint = open_checkpoint(str(write_tensors(tensors, tmp_path / "merge.safetensors")))
    found = checkpoint.load("text_encoder").state_dict()
    expected = open_checkpoint(str(tiny_sd_checkpoint())).load("text_encoder").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_widened_and_scaled_float8_refused(tiny_tensors, tiny_architecture, tmp_path, dtype):
    tiny_architecture("sd1")
    tensors = {name: x.to(dtype) if x.is_floating_point() else x for name, x in tiny_tensors("sd1").items()}
    path = write_tensors(tensors, tmp_path / "fp8.safetensors")
    checkpoint = open_checkpoint(str(path))
    kind = "F8_E4M3" if dtype is torch.float8_e4m3fn else "F8_E5M2"
    assert [note for note in checkpoint.notices() if "widened" in note] == [
        f"{part}: weights of the type {kind} are widened to fp32, exactly" for part in ("text_encoder", "unet", "vae")
    ]
    weight = checkpoint.load("unet").state_dict()["conv_in.weight"]
    assert torch.equal(weight, tensors["model.diffusion_model.input_blocks.0.0.weight"].float())
    tensors["scaled_fp8"] = torch.zeros(2, dtype=dtype)
    with pytest.raises(CheckpointError, match=r"got weights with scales beside them \(tensor scaled_fp8\), "):
        open_checkpoint(str(write_tensors(tensors, path)))
