"""LoRAs of Z-Image at run time, in the names of every program, against diffusers."""

import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from system_lora import check_lora, factors, linear_layers
from system_pair import open_theirs
from tiny_z_image import make_z_image

from diffoundry.runtime.formats.z_image_keys import z_image_layers

pytestmark = pytest.mark.slow

ARGUMENTS = {"prompt": "a red apple", "num_inference_steps": 2, "height": 16, "width": 24, "guidance_scale": 0.0}


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("z-image", make_z_image)


@pytest.fixture(scope="module")
def bundle(exported, folder):
    return exported(folder, target="onnxruntime,openvino")


def test_names_of_diffusers_and_kohya(bundle, folder, tmp_path):
    """diffusers reads both; a tensor of no layer is listed."""
    theirs, random = open_theirs(folder, "ZImagePipeline"), torch.Generator().manual_seed(0)
    pairs = {
        name: factors(layer.weight.shape, random)
        for name, layer in linear_layers(theirs.transformer).items()
        if name.startswith(("layers", "noise_refiner", "context_refiner"))
    }
    tensors = {
        f"transformer.{name}.lora_{side}.weight": tensor.half().contiguous()
        for name, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    save_file(tensors, tmp_path / "theirs.safetensors")
    save_file({**tensors, "what.is.this": torch.ones(1)}, tmp_path / "ours.safetensors")
    theirs.load_lora_weights(str(tmp_path / "theirs.safetensors"))
    counts = {"transformer": len(pairs)}
    both, listed = ("onnxruntime", "openvino"), ("what.is.this",)
    file = tmp_path / "ours.safetensors"
    check_lora(bundle, theirs, file, ARGUMENTS, both, unused=listed, layers=counts)
    theirs.unload_lora_weights()
    kohya = {}
    for name, (down, up) in pairs.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        kohya |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(1.0)}
    save_file(kohya, tmp_path / "kohya.safetensors")
    theirs.load_lora_weights(str(tmp_path / "kohya.safetensors"))
    check_lora(bundle, theirs, tmp_path / "kohya.safetensors", ARGUMENTS, layers=counts)


def test_joined_layers_are_split(bundle, folder, tmp_path):
    """Names of the original code, whose changes diffusers converts as it converts weights."""
    theirs, random = open_theirs(folder, "ZImagePipeline"), torch.Generator().manual_seed(1)
    layers = linear_layers(theirs.transformer)
    originals = z_image_layers(layers)
    assert {"layers.0.attention.qkv", "context_refiner.0.attention.out", "x_embedder"} < originals.keys()
    joined = {name for found in originals.values() for name in found.layers}
    shapes = {name: layer.weight.shape for name, layer in layers.items() if name not in joined}
    for original, found in originals.items():
        parts = [layers[name].weight for name in found.layers]
        shapes[original] = (sum(map(len, parts)), parts[0].shape[1])
    pairs = {name: factors(shape, random) for name, shape in shapes.items()}
    whole = {f"{name}.weight": 0.5 * up @ down for name, (down, up) in pairs.items()}
    changes = single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers(whole)
    assert {name.removesuffix(".weight") for name in changes} == layers.keys()
    for name, change in changes.items():
        layers[name.removesuffix(".weight")].weight.data += change
    for form, name_of in {
        "kohya": lambda name, end: f"lora_unet_{name.replace('.', '_')}.{end}",
        "original": lambda name, end: f"{name}.{end}",
        "ComfyUI": lambda name, end: f"diffusion_model.{name}.{end}",
    }.items():
        tensors = {}
        for name, (down, up) in pairs.items():
            tensors |= {name_of(name, "lora_down.weight"): down, name_of(name, "lora_up.weight"): up}
            tensors[name_of(name, "alpha")] = torch.tensor(1.0)
        save_file(tensors, tmp_path / f"{form}.safetensors")
        check_lora(bundle, theirs, tmp_path / f"{form}.safetensors", ARGUMENTS, layers={"transformer": len(layers)})
