"""Variants of weights: alone, mixed between networks, in shards, under every name that diffusers reads."""

import json
import shutil

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.checkpoints.weight_files import choose_weights
from diffoundry.runtime.errors import CheckpointError, InputError

PARTS = {
    "text_encoder": (transformers.CLIPTextModel, "model"),
    "unet": (diffusers.UNet2DConditionModel, "diffusion_pytorch_model"),
    "vae": (diffusers.AutoencoderKL, "diffusion_pytorch_model"),
}


def rename(root, **variants):
    """Give the weights of networks a variant."""
    for part, variant in variants.items():
        stem = PARTS[part][1]
        (root / part / f"{stem}.safetensors").rename(root / part / f"{stem}.{variant}.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "variants",
    [
        {"text_encoder": "bf16", "unet": "bf16", "vae": "bf16"},
        {"unet": "non_ema"},
        {"text_encoder": "fp16", "unet": "non_ema", "vae": "bf16"},
    ],
)
def test_variants_alone_and_mixed(own_checkpoint, tiny_sd_checkpoint, variants):
    rename(own_checkpoint, **variants)
    checkpoint = open_checkpoint(str(own_checkpoint))
    assert checkpoint.notices() == [
        f"{part} has no files without a variant; the variant {variant!r} is used"
        for part, variant in sorted(variants.items())
    ]
    plain = tiny_sd_checkpoint()
    for part, (kind, _) in PARTS.items():
        assert same(checkpoint.load(part).state_dict(), kind.from_pretrained(plain / part).state_dict())


def test_a_variant_is_chosen_where_there_is_one(own_checkpoint, tmp_path):
    """diffusers: `from_pretrained(variant="non_ema")` mixes files with and without the variant, too."""
    unet = diffusers.UNet2DConditionModel.from_pretrained(own_checkpoint / "unet")
    with torch.no_grad():
        unet.conv_in.bias += 1
    unet.save_pretrained(own_checkpoint / "unet", variant="non_ema")
    checkpoint = open_checkpoint(str(own_checkpoint), variant="non_ema")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(own_checkpoint, variant="non_ema")
    for part in PARTS:
        assert same(checkpoint.load(part).state_dict(), getattr(pipeline, part).state_dict())
    assert checkpoint.notices() == [
        f"{part} has no variant 'non_ema'; its files without one are used" for part in ("text_encoder", "vae")
    ]
    assert checkpoint.identity()["variant"] == "non_ema"
    again = Checkpoint.reopen(json.loads(json.dumps(checkpoint.describe())))
    assert same(again.load("unet").state_dict(), unet.state_dict())
    assert not same(open_checkpoint(str(own_checkpoint)).load("unet").state_dict(), unet.state_dict())
    with pytest.raises(CheckpointError, match="--variant: got 'fp8', but no network of .* has it; found no variant"):
        open_checkpoint(str(own_checkpoint), variant="fp8")
    rename(own_checkpoint, vae="bf16")
    with pytest.raises(CheckpointError, match="found the variant bf16; choose another or leave it out"):
        open_checkpoint(str(own_checkpoint), variant="fp8")
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"--variant: got 'fp16' with the single file .*x\.safetensors, expected a"):
        open_checkpoint(str(tmp_path / "x.safetensors"), variant="fp16")


def shard_as_diffusers(root, part):
    PARTS[part][0].from_pretrained(root / part).save_pretrained(root / "new", max_shard_size="500KB", variant="bf16")


def shard_with_an_old_index(root, part):
    """diffusers: `_fetch_index_file_legacy`."""
    shard_as_diffusers(root, part)
    stem = PARTS[part][1]
    (root / "new" / f"{stem}.safetensors.index.bf16.json").rename(root / "new" / f"{stem}.safetensors.bf16.index.json")


def shard_without_metadata(root, part):
    PARTS[part][0].from_pretrained(root / part).save_pretrained(root / "new", max_shard_size="500KB")
    index = root / "new" / f"{PARTS[part][1]}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
@pytest.mark.parametrize("shard", [shard_as_diffusers, shard_with_an_old_index, shard_without_metadata])
def test_shards(own_checkpoint, tiny_sd_checkpoint, shard, part):
    shard(own_checkpoint, part)
    shutil.rmtree(own_checkpoint / part)
    (own_checkpoint / "new").rename(own_checkpoint / part)
    assert len(list((own_checkpoint / part).glob("*.safetensors"))) > 1
    expected = PARTS[part][0].from_pretrained(tiny_sd_checkpoint() / part).state_dict()
    assert same(open_checkpoint(str(own_checkpoint)).load(part).state_dict(), expected)


def test_the_choice_between_names():
    stem = "diffusion_pytorch_model"
    cases = {
        (f"{stem}.safetensors", f"{stem}.fp16.safetensors"): (None, f"{stem}.safetensors"),
        (f"{stem}.fp16.safetensors", f"{stem}.bf16.safetensors"): ("fp16", f"{stem}.fp16.safetensors"),
        (f"{stem}.bf16.safetensors", f"{stem}.safetensors.index.json"): (None, f"{stem}.safetensors.index.json"),
        (f"{stem}.safetensors.index.ema.json", f"{stem}.ema-00001-of-00002.safetensors"): (
            "ema",
            f"{stem}.safetensors.index.ema.json",
        ),
    }
    for names, expected in cases.items():
        for order in (names, names[::-1]):
            choice = choose_weights("unet", order, "diffusers")
            assert (choice.variant, choice.name) == expected
    refusals = {
        (
            f"{stem}.bf16.safetensors",
            f"{stem}.non_ema.safetensors",
        ): "unet: got weights in the variants bf16 and n",
        (f"{stem}-00001-of-00002.safetensors",): rf"unet: got {stem}-00001-of-00002\.safetensors without {stem}",
        (f"{stem}.onnx", "other.safetensors"): f"unet: no weights found, expected {stem}",
    }
    for names, message in refusals.items():
        with pytest.raises(CheckpointError, match=message):
            choose_weights("unet", names, "diffusers")


def test_an_index_of_another_download(own_checkpoint):
    shard_as_diffusers(own_checkpoint, "unet")
    index = own_checkpoint / "new/diffusion_pytorch_model.safetensors.index.bf16.json"
    table = json.loads(index.read_text())
    first, *rest = table["weight_map"]
    places = {name: table["weight_map"][name] for name in rest}
    table["weight_map"] = {f"{first}.old": table["weight_map"][first], **places}
    index.write_text(json.dumps(table))
    shutil.rmtree(own_checkpoint / "unet")
    (own_checkpoint / "new").rename(own_checkpoint / "unet")
    with pytest.raises(CheckpointError, match=rf"names tensors that its files lack: {first}\.old; files of different"):
        open_checkpoint(str(own_checkpoint))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_widened_with_a_note(own_checkpoint, dtype):
    expected = {}
    for part, (kind, stem) in PARTS.items():
        module = kind.from_pretrained(own_checkpoint / part)
        path = own_checkpoint / part / f"{stem}.safetensors"
        stored = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        save_file(stored, path, {"format": "pt"})
        expected[part] = {name: tensor.to(dtype).float() for name, tensor in module.state_dict().items()}
    checkpoint = open_checkpoint(str(own_checkpoint))
    kind = "F8_E4M3" if dtype is torch.float8_e4m3fn else "F8_E5M2"
    assert checkpoint.notices() == [
        f"{part}: weights of the type {kind} are widened to fp32, exactly" for part in PARTS
    ]
    for part, wanted in expected.items():
        found = checkpoint.load(part).state_dict()
        assert {tensor.dtype for tensor in found.values() if tensor.is_floating_point()} == {torch.float32}
        assert same({name: found[name] for name in wanted}, wanted)
