"""--lora and --embedding of `generate`: the image of the library, what a PNG keeps, what is refused."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from diffoundry.runtime import load
from diffoundry.runtime.cli.adapters import parse_lora
from diffoundry.runtime.cli.generate import command
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.images.save import read_settings


@pytest.fixture(scope="module")
def files(emoji_bundle, tmp_path_factory):
    """A LoRA of all attentions of the embedded model, with a tensor that belongs to nothing, and an embedding."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    spec = load(emoji_bundle).session.adapters("unet")
    tensors = {"else": torch.ones(1)}
    for layer, (outputs, inputs, *_) in spec.layers.items():
        if layer.endswith(("to_q", "to_v")):
            tensors[f"unet.{layer}.lora_A.weight"] = torch.randn(2, inputs) / inputs**0.5
            tensors[f"unet.{layer}.lora_B.weight"] = torch.randn(outputs, 2)
    config = {"unet.r": 2, "unet.lora_alpha": 2, "unet.alpha_pattern": {"no_layer": 1}}
    save_file(tensors, folder / "x.safetensors", {"lora_adapter_metadata": json.dumps(config)})
    width = load(emoji_bundle).session.adapters("text_encoder").width
    save_file({"<cat>": torch.randn(2, width)}, folder / "cat.safetensors")
    return folder / "x.safetensors", folder / "cat.safetensors"


def generate(bundle, output, *options):
    arguments = [str(bundle), "a <dog>", "--steps", "2", "--seed", "0", "-o", str(output), *options]
    return CliRunner().invoke(command, arguments)


def test_the_image_is_that_of_the_library(emoji_bundle, files, tmp_path):
    lora, embedding = files
    output = tmp_path / "x.png"
    result = generate(emoji_bundle, output, "--lora", f"{lora}:0.7", "--embedding", f"{embedding}:<dog>")
    assert result.exit_code == 0, result.output
    assert "these tensors are unused: else" in result.output
    assert "pattern 'no_layer' fits no layer of unet" in " ".join(result.output.split())
    assert "the word <dog> loads 2 vectors" in result.output
    pipe = load(emoji_bundle)
    arguments = {"seed": 0, "num_inference_steps": 2}
    plain = np.asarray(pipe("a <dog>", **arguments).images[0])
    pipe.loras.load(lora, scale=0.7)
    pipe.embeddings.load(embedding, token="<dog>")
    expected = np.asarray(pipe("a <dog>", **arguments).images[0])
    generated = np.asarray(Image.open(output))
    np.testing.assert_array_equal(generated, expected)
    assert not np.array_equal(generated, plain)
    settings = read_settings(output)
    assert settings["lora"] == [f"{lora}:0.7"]
    assert settings["embedding"] == [f"{embedding}:<dog>"]
    again = CliRunner().invoke(command, [str(emoji_bundle), "--like", str(output), "-o", str(tmp_path / "y.png")])
    assert isinstance(again.exception, InputError)
    files = f"--lora {lora}:0.7 --embedding {embedding}:<dog>"
    assert f"--like: the image was generated with {files}; pass that too" in str(again.exception)


def test_scales_behind_a_colon():
    assert parse_lora("a/b.safetensors") == ("a/b.safetensors", 1.0)
    assert parse_lora("C:/b.safetensors:-0.5") == ("C:/b.safetensors", -0.5)
    with pytest.raises(InputError, match="--lora: got 'b.safetensors:x', expected FILE or FILE:SCALE"):
        parse_lora("b.safetensors:x")
