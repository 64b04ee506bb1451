"""Architecture and prediction type of single files, and every refusal with its message."""

import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from single_files import write_sparse, write_tensors

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.runtime.errors import CheckpointError, InputError

UNET = "model.diffusion_model."


def unet(width=320, channels=4, text=768, numbers=None):
    """Shapes of the tensors that tell UNets apart."""
    shapes = {
        f"{UNET}input_blocks.0.0.weight": (width, channels, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (width, text),
    }
    return shapes if numbers is None else {**shapes, f"{UNET}label_emb.0.0.weight": (4 * width, numbers)}


VAE = {"first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3)}
CLIP = {"cond_stage_model.transformer.text_model.final_layer_norm.bias": (768,)}
OPEN_CLIP = {"cond_stage_model.model.ln_final.bias": (1024,)}
TWO = {"conditioner.embedders.0.transformer.text_model.x": (1,), "conditioner.embedders.1.model.ln_final.bias": (1280,)}

SD1 = {**unet(), **VAE, **CLIP}
SD2 = {**unet(text=1024), **VAE, **OPEN_CLIP}
XL = {**unet(text=2048, numbers=2816), **VAE, **TWO}


def opened(shapes, tmp_path, metadata=None, **options):
    return open_checkpoint(str(write_sparse(shapes, tmp_path / "model.safetensors", metadata)), **options)


@pytest.mark.parametrize(
    ("shapes", "metadata", "asked", "expected", "reason"),
    [
        (SD1, {}, None, "epsilon", "the file does not say otherwise"),
        (SD1, {}, "v_prediction", "v_prediction", "as asked for"),
        (SD1, {"modelspec.prediction_type": "v"}, None, "v_prediction", "modelspec.prediction_type is v"),
        (SD1, {"modelspec.prediction_type": "v"}, "epsilon", "epsilon", "as asked for"),
        (SD2, {"modelspec.prediction_type": "epsilon"}, None, "epsilon", "modelspec.prediction_type is epsilon"),
        (SD2, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, None, "v_prediction", "modelspec.architecture"),
        (SD2, {"modelspec.architecture": "stable-diffusion-v2-512"}, None, "epsilon", "modelspec.architecture"),
        ({**SD2, "v_pred": (0,)}, {}, None, "v_prediction", "marked v_pred"),
        ({**SD2, **unet(text=1024, channels=9)}, {}, None, "epsilon", "for inpainting"),
        (XL, {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, None, "epsilon", "does not say otherwise"),
        ({**XL, "v_pred": (0,)}, {}, None, "v_prediction", "marked v_pred"),
    ],
)
def test_prediction_type(tmp_path, shapes, metadata, asked, expected, reason):
    checkpoint = opened(shapes, tmp_path, metadata, prediction_type=asked)
    assert checkpoint.scheduler_config["prediction_type"] == expected
    assert re.search(rf"^model\.safetensors is .*predicts {expected} \(.*{reason}", checkpoint.notices()[0])


def test_the_base_model_is_known_by_its_steps(tmp_path):
    tensors = {name: torch.empty(shape) for name, shape in SD2.items()}
    path = write_tensors({**tensors, "global_step": torch.tensor(875000)}, tmp_path / "base.safetensors")
    assert open_checkpoint(str(path)).scheduler_config["prediction_type"] == "epsilon"
    write_tensors({**tensors, "global_step": torch.tensor(110000)}, path)
    with pytest.raises(CheckpointError, match="does not say what it predicts"):
        open_checkpoint(str(path))


def test_configs_follow_the_prediction_type(tmp_path):
    kinds = {}
    for kind in ("epsilon", "v_prediction"):
        checkpoint = opened(SD2, tmp_path, prediction_type=kind)
        sizes = {source: (checkpoint.root / source / "config.json").read_text() for source in ("unet", "vae")}
        assert f'"sample_size": {64 if kind == "epsilon" else 96}' in sizes["unet"]
        kinds[kind] = checkpoint.scheduler_config["_class_name"], checkpoint.model_index["scheduler"][1]
    assert kinds == {"epsilon": ("PNDMScheduler",) * 2, "v_prediction": ("DDIMScheduler",) * 2}


def test_a_mark_of_zero_terminal_snr_sets_the_scheduler(tmp_path):
    checkpoint = opened({**XL, "v_pred": (0,), "ztsnr": (0,)}, tmp_path)
    config = checkpoint.scheduler_config
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert any("marked ztsnr" in notice for notice in checkpoint.notices())
    assert "rescale_betas_zero_snr" not in opened(XL, tmp_path).scheduler_config


def test_images_to_change_are_sampled_as_their_authors_do(tmp_path):
    checkpoint = opened({**SD1, **unet(channels=8)}, tmp_path)
    assert checkpoint.scheduler_config["_class_name"] == "EulerAncestralDiscreteScheduler"
    assert checkpoint.model_index["scheduler"][1] == "EulerAncestralDiscreteScheduler"


def test_notices_name_the_parts_left_out(tmp_path):
    more = {"model_ema.decay": (1,), "alphas_cumprod": (1000,), "control_model.a": (16,), "two\nlines": (1,)}
    notices = opened({**SD1, **more}, tmp_path).notices()
    assert "the averaged weights (EMA) in the file are left out, as diffusers does" in notices
    assert r"tensors that belong to none of its networks are left out: control_model.a, 'two\nlines'" in notices
    assert len(opened(SD1, tmp_path).notices()) == 1


def without(shapes, start):
    return {name: shape for name, shape in shapes.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (SD2, "Stable Diffusion 2.x that does not say what it predicts; add --prediction-type v_prediction for models"),
        (without(SD1, "first"), r"got Stable Diffusion 1.x without its VAE \(no tensors first_stage_model\.\*\)"),
        (without(XL, "conditioner.embedders.1"), "got Stable Diffusion XL without its second text encoder"),
        (unet(), r"without its text encoder and VAE \(.*\), expected all networks in one file; it was pruned"),
        (
            {**SD1, **unet(channels=5)},
            "takes 5 channels, expected 4 or 8 or 9; it looks like one conditioned on depth",
        ),
        (
            {**XL, **unet(text=2048, numbers=2816, channels=7)},
            "7 channels, expected 4 or 8 or 9; it looks like an upscaler",
        ),
        ({**SD1, **unet(channels=6)}, "takes 6 channels, expected 4 or 8 or 9$"),
        ({**SD1, **unet(width=256, text=1024)}, "got a UNet of width 256 for text of width 1024, expected Stable Diff"),
        ({**SD1, **unet(text=1024, numbers=768)}, "got a UNet of width 320 .* and with 768 further numbers, expected"),
        ({**XL, "edm_mean": (4,)}, "looks like a checkpoint of EDM's preconditioning"),
        ({f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (1,)}, "looks like Stable Diffusion 3, which"),
        ({f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": (1,)}, "looks like Flux, which is not supported"),
        ({"head.modulation": (1,)}, "looks like Wan, which is not supported"),
        ({"lora_unet_x.lora_down.weight": (4, 4)}, "looks like a LoRA, which is added to a checkpoint with --lora;"),
        ({"control_model.time_embed.0.weight": (1,)}, "looks like a ControlNet; expected"),
        ({"emb_params": (1, 768)}, r"looks like an embedding \(textual inversion\)"),
        ({"conv_in.weight": (320, 4, 3, 3), "down_blocks.0.resnets.0.x": (1,)}, "one network in diffusers' names"),
        (VAE | {"first_stage_model.decoder.up.0.block.0.x": (1,)}, "looks like a VAE alone"),
        ({"foo.bar.baz": (1,), "foo.bar.x": (1,)}, r"got no UNet \(tensors: 2 of foo\.bar\.\*\); expected Stable Diff"),
        ({}, "got no tensors; expected"),
    ],
)
def test_files_that_are_refused(tmp_path, shapes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(shapes, tmp_path)
    assert str(tmp_path / "model.safetensors") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_prediction_in_the_metadata(tmp_path):
    with pytest.raises(CheckpointError, match=r"modelspec\.prediction_type: got 'flow', expected epsilon or v; when"):
        opened(SD1, tmp_path, {"modelspec.prediction_type": "flow"})
    checkpoint = opened(SD1, tmp_path, {"modelspec.prediction_type": "flow"}, prediction_type="epsilon")
    assert checkpoint.scheduler_config["prediction_type"] == "epsilon"


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"{name}: is a pickled file, which can run code.*diffoundry convert"):
        open_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = write_sparse(SD1, tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is (empty|cut off: it has \d+ bytes)"):
        open_checkpoint(str(path))


def test_a_prediction_type_needs_a_single_file(tmp_path):
    with pytest.raises(InputError, match="'epsilon' with the model 'emoji', expected it with a single file only"):
        open_checkpoint("emoji", prediction_type="epsilon")
    with pytest.raises(InputError, match="prediction type: got 'sample', expected epsilon or v_prediction"):
        opened(SD1, tmp_path, prediction_type="sample")


def test_opening_loads_no_torch(tmp_path):
    path = write_sparse(SD1, tmp_path / "model.safetensors")
    script = (
        "import sys; from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint; "
        f"open_checkpoint({str(path)!r}).notices(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


MANY = ("model.diffusion_model.out.0.bias", "model.diffusion_model.out.2.weight")


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        (
            "unet",
            lambda t: {n: x for n, x in t.items() if n not in MANY},
            rf"weights are missing: {MANY[0]}, {MANY[1]};",
        ),
        ("unet", lambda t: {**t, MANY[0]: torch.zeros(5)}, rf"{MANY[0]}: got shape \(5,\), expected one .* \(32,\) of"),
        ("unet", lambda t: {**t, f"{UNET}time_embed.cond_proj.weight": torch.zeros(5)}, "to no weight: .*cond_proj"),
        ("unet", lambda t: {**t, MANY[0]: t[MANY[0]].int()}, f"got tensor {MANY[0]} of the type I32, expected F64"),
        (
            "vae",
            lambda t: {n: x for n, x in t.items() if "decoder.up" not in n},
            r"weights are missing: (first_stage_model\.decoder[\w.]+, ){4}first_stage_model[\w.]+ and \d+ more; got a",
        ),
        (
            "text_encoder",
            lambda t: {n: x for n, x in t.items() if "layers.1.self_attn.q" not in n},
            r"missing: (cond_stage_model\.transformer[\w.]+\.layers\.1\.self_attn\.q_proj\.\w+(, )?){2}; got",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused(tmp_path, tiny_tensors, tiny_architecture, source, change, message):
    tiny_architecture("sd1")
    path = tmp_path / "model.safetensors"
    save_file({name: x.clone().contiguous() for name, x in change(tiny_tensors("sd1")).items()}, path)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path)).load(source)
