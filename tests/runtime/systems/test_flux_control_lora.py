"""Control LoRAs of FLUX.1, fused at export, against diffusers on tiny random checkpoints."""

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from system_lora import factors, linear_layers
from system_pair import compare_system
from tiny_flux import DEV, make_flux

from diffoundry.exporter.checkpoints.checkpoint import Checkpoint, open_checkpoint
from diffoundry.exporter.cli.export import read_loras
from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError
from diffoundry.runtime.formats.flux_keys import flux_layers, original_norm

pytestmark = pytest.mark.slow

EDGES = Image.effect_noise((24, 16), 30).convert("RGB")
FEW = {"num_inference_steps": 3, "max_sequence_length": 9, "height": 16, "width": 24}
NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("flux-dev", lambda folder: make_flux(folder, **DEV))


def open_control(folder):
    pipeline = diffusers.FluxControlPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tensors_of(transformer):
    """Factors of every layer with biases, the first of twice the channels, and new norms, in diffusers' names."""
    random, tensors = torch.Generator().manual_seed(0), {}
    for name, layer in linear_layers(transformer).items():
        rows, columns = layer.weight.shape
        down, up = factors((rows, 2 * columns if name == "x_embedder" else columns), random)
        bias = 0.1 * torch.randn(rows, generator=random)
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.lora_B.bias": bias}
    for name, weight in transformer.named_parameters():
        if name.split(".")[-2] in NORMS:
            tensors[name] = 1 + 0.3 * torch.randn(weight.shape, generator=random)
    return {f"transformer.{name}": tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("control") / "depth.safetensors"
    save_file(tensors_of(open_control(folder).transformer), place)
    return place


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_every_step_is_diffusers(exported, folder, file, target):
    theirs = open_control(folder)
    theirs.load_lora_weights(str(file))
    ours = load(exported(folder, target="onnxruntime,openvino", loras=(str(file),)), target=target)
    assert ours.session.bundle.pipeline_class == "FluxControlPipeline"
    two = {"prompt": ["a cat", "a red apple"], "control_image": [EDGES, EDGES.rotate(180)], "guidance_scale": 5.0}
    compare_system(ours, theirs, watch=False, **two, **FEW)
    if target == "onnxruntime":
        large = {**FEW, "height": 40, "width": 32, "control_image": EDGES.resize((32, 40))}
        compare_system(ours, theirs, watch=False, prompt="a cat", num_images_per_prompt=2, **large)


def test_weights_are_diffusers(folder, file):
    """With a scale, which norms have none of; also after a description for another process."""
    theirs = open_control(folder)
    theirs.load_lora_weights(str(file))
    theirs.fuse_lora(lora_scale=0.7)
    checkpoint = open_checkpoint(str(folder)).with_loras(read_loras([f"{file}:0.7"]))
    expected = {name.replace(".base_layer", ""): weight for name, weight in theirs.transformer.state_dict().items()}
    for opened in (checkpoint, Checkpoint.reopen(checkpoint.describe())):
        assert opened.model_index["_class_name"] == "FluxControlPipeline"
        for name, weight in opened.load("transformer").state_dict().items():
            torch.testing.assert_close(weight, expected[name], msg=name)


def test_original_names_are_the_same(folder, file, tmp_path):
    """Joined layers are split, with their biases; diffusers reads these names of a transformer of full depth alone."""
    theirs, random = open_control(folder).transformer, torch.Generator().manual_seed(1)
    layers, renamed, whole = linear_layers(theirs), {}, {}
    originals = {name: found for name, found in flux_layers(layers).items() if "linear" in name or "single" not in name}
    for original, found in originals.items():
        parts = [layers[layer].weight for layer in found.layers]
        rows = [len(part) for part in parts]
        columns = 2 * parts[0].shape[1] if original == "img_in" else parts[0].shape[1]
        down, up = factors((sum(rows), columns), random)
        bias = 0.1 * torch.randn(sum(rows), generator=random)
        whole |= {f"{original}.lora_A.weight": down, f"{original}.lora_B.weight": up, f"{original}.lora_B.bias": bias}
        turned = [torch.cat(one.chunk(2)[::-1]) if found.swapped else one for one in (up, bias)]
        for layer, ups, biases in zip(found.layers, *(one.split(rows) for one in turned), strict=True):
            renamed |= {f"{layer}.lora_A.weight": down.clone(), f"{layer}.lora_B.weight": ups.clone()}
            renamed |= {f"{layer}.lora_B.bias": biases.clone()}
    for name, weight in theirs.named_parameters():
        if name.split(".")[-2] in NORMS:
            renamed[name] = torch.randn(weight.shape, generator=random)
            whole[original_norm(name.removesuffix(".weight"))] = renamed[name].clone()
    save_file({f"transformer.{name}": tensor for name, tensor in renamed.items()}, tmp_path / "new.safetensors")
    save_file(whole, tmp_path / "old.safetensors")
    plain = open_checkpoint(str(folder))
    made = [
        plain.with_loras(read_loras([str(tmp_path / f"{name}.safetensors")])).load("transformer").state_dict()
        for name in ("new", "old")
    ]
    assert made[0].keys() == made[1].keys()
    for name, weight in made[0].items():
        torch.testing.assert_close(made[1][name], weight, msg=name)


WRONG = {
    "transformer.x.lora_B.bias": (torch.ones(4), "'transformer.x.lora_B.bias' is for a layer that the bundle's trans"),
    "transformer.proj_out.lora_B.bias": (torch.ones(3), r"got shape \(3,\), expected \(16,\); it was trained"),
    "transformer.transformer_blocks.9.attn.norm_q.weight": (torch.ones(16), "is for a layer that the bundle's transf"),
    "transformer.transformer_blocks.0.attn.norm_q.weight": (
        torch.full((16,), torch.nan),
        "numbers that are not finite",
    ),
}


def test_files_that_do_not_fit_are_refused(folder, file, tmp_path):
    tensors = tensors_of(open_control(folder).transformer)
    for name, (tensor, words) in WRONG.items():
        save_file({**tensors, name: tensor}, tmp_path / "wrong.safetensors")
        checkpoint = open_checkpoint(str(folder)).with_loras(read_loras([str(tmp_path / "wrong.safetensors")]))
        with pytest.raises(InputError, match=words):
            checkpoint.load("transformer")
