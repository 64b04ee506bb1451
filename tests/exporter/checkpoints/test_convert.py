"""`diffoundry convert`: pickled weights as safetensors, equal to what diffusers reads, and no code of theirs run."""

import json
import pickle

import diffusers
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint
from diffoundry.exporter.cli.convert import command
from diffoundry.runtime.errors import CheckpointError, InputError

SHARED = torch.ones(4)


def convert(*words):
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.split("\n")[:-1]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_folder(own_checkpoint, tmp_path):
    """Whole files, shards, a variant, and a name with a space."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(own_checkpoint)
    old, new = tmp_path / "old one", tmp_path / "new one"
    pipeline.save_pretrained(old, safe_serialization=False)
    pipeline.unet.save_pretrained(old / "unet", safe_serialization=False, max_shard_size="2MB")
    (old / "unet/diffusion_pytorch_model.bin").unlink()
    half = {name: tensor.half() for name, tensor in pipeline.vae.state_dict().items()}
    torch.save(half, old / "vae/diffusion_pytorch_model.fp16.bin")
    encoder = {f"text_model.{name}": tensor for name, tensor in pipeline.text_encoder.state_dict().items()}
    (old / "text_encoder/model.safetensors").unlink(missing_ok=True)
    torch.save(encoder, old / "text_encoder/pytorch_model.bin")
    with pytest.raises(CheckpointError, match="weights are pickled"):
        open_checkpoint(str(old))
    written = convert(old, "-o", new)
    assert str(new / "text_encoder/model.safetensors") in written
    assert not list(new.rglob("*.bin"))
    checkpoint = open_checkpoint(str(new))
    for part in ("text_encoder", "unet", "vae"):
        assert same(checkpoint.load(part).state_dict(), getattr(pipeline, part).state_dict())
    found = open_checkpoint(str(new), variant="fp16").load("vae").state_dict()
    assert same(found, {name: tensor.float() for name, tensor in half.items()})


STATES = {
    "training.ckpt": ({"state_dict": {"a": torch.ones(2, 3).T, "epoch": 3}, "epoch": 3}, {"a": torch.ones(3, 2)}),
    "tied.pt": ({"a": SHARED, "b": SHARED}, {"a": SHARED, "b": SHARED}),
    "learned_embeds.bin": ({"<cat>": torch.ones(8)}, {"<cat>": torch.ones(8)}),
    "a1111.pt": (
        {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 8)}, "name": "cat"},
        {"emb_params": torch.ones(2, 8)},
    ),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file(tmp_path, name, zipped):
    state, expected = STATES[name]
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert convert(tmp_path / name, "-o", tmp_path / "new.safetensors") == [str(tmp_path / "new.safetensors")]
    assert same(load_file(tmp_path / "new.safetensors"), expected)


class Harm:
    def __reduce__(self):
        return print, ("this code ran",)


def test_code_is_not_run(tmp_path, capfd):
    torch.save({"a": torch.ones(2), "harm": Harm()}, tmp_path / "harm.ckpt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"harm": Harm()}))
    for name in ("harm.ckpt", "plain.pt"):
        message = rf"{name}: holds more than tensors and plain values, or is damaged( \(print\))?; it is not read"
        with pytest.raises(CheckpointError, match=message):  # torch's advice to turn its check off is not passed on
            convert(tmp_path / name, "-o", tmp_path / "new.safetensors")
    assert "this code ran" not in capfd.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"harm.ckpt", "plain.pt"}


def test_refusals(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.ckpt").write_text("<html>")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04" + bytes(99))
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    (tmp_path / "image.ckpt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": 3}))
    cases = [
        ("nothing", "new.safetensors", InputError, "nothing: no such file or folder, expected a pickled file"),
        ("empty", "new", InputError, "empty: got no pickled weights"),
        ("page.ckpt", "new.pt", InputError, r"--output .*new\.pt: expected a name that ends in \.safetensors"),
        ("page.ckpt", "empty", InputError, "--output .*empty: exists already; choose another name"),
        ("page.ckpt", "new.safetensors", CheckpointError, r"page\.ckpt: is a web page, not the file itself"),
        ("cut.ckpt", "new.safetensors", CheckpointError, r"cut\.ckpt: cannot be read \(.*\); download it again"),
        (
            "image.ckpt",
            "new.safetensors",
            CheckpointError,
            r"is no pickled file, or is damaged; expected one that torch",
        ),
        ("list.pt", "new.safetensors", CheckpointError, r"list\.pt: got list, expected a table of names and tensors"),
        ("none.pt", "new.safetensors", CheckpointError, r"none\.pt: got no tensors, expected"),
        ("folder", "new", CheckpointError, r"pytorch_model\.bin\.index\.json: got no 'weight_map'"),
    ]
    for source, target, kind, message in cases:
        with pytest.raises(kind, match=message):
            convert(tmp_path / source, "-o", tmp_path / target)
        assert not (tmp_path / target).exists() or target == "empty"
