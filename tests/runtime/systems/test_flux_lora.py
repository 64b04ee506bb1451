"""LoRAs of FLUX.1 at run time, in the names of every program, against diffusers."""

import pytest
import torch
from diffusers.loaders import lora_conversion_utils, single_file_utils
from safetensors.torch import save_file
from system_lora import check_lora, factors, flux_widths, linear_layers, tiny
from system_pair import open_theirs
from tiny_flux import DEV, make_flux

from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

ARGUMENTS = {
    "prompt": "a red apple", "max_sequence_length": 9, "num_inference_steps": 2, "height": 16, "width": 24
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(system_checkpoint):
    return system_checkpoint("flux-dev", lambda folder: make_flux(folder, **DEV))


@pytest.fixture(scope="module")
def bundle(exported, folder):
    return exported(folder, target="onnxruntime,openvino")


def test_names_of_diffusers(bundle, folder, tmp_path):
    """Names of PEFT for the transformer and CLIP; tensors of no layer are listed."""
    theirs, random = open_theirs(folder, "FluxPipeline"), torch.Generator().manual_seed(0)
    tensors, counts = {}, {"transformer": 0, "text_encoder": 0}
    for part in counts:
        for name, layer in linear_layers(getattr(theirs, part)).items():
            if part == "transformer" or name.endswith(("q_proj", "v_proj")):
                counts[part] += 1
                for side, tensor in zip("AB", factors(layer.weight.shape, random), strict=True):
                    tensors[f"{part}.{name}.lora_{side}.weight"] = tensor.half().contiguous()
    save_file(tensors, tmp_path / "theirs.safetensors")
    save_file({**tensors, "what.is.this": torch.ones(1)}, tmp_path / "ours.safetensors")
    theirs.load_lora_weights(str(tmp_path / "theirs.safetensors"))
    file = tmp_path / "ours.safetensors"
    check_lora(bundle, theirs, file, ARGUMENTS, ("onnxruntime", "openvino"), unused=("what.is.this",), layers=counts)


def original_layers(transformer):
    """Layer of the original code to the shape of its weight."""
    width, config = transformer.inner_dim, transformer.config
    shapes = {
        "time_in.in_layer": (width, 256),
        "time_in.out_layer": (width, width),
        "guidance_in.in_layer": (width, 256),
        "guidance_in.out_layer": (width, width),
        "vector_in.in_layer": (width, config.pooled_projection_dim),
        "vector_in.out_layer": (width, width),
        "txt_in": (width, config.joint_attention_dim),
        "img_in": (width, config.in_channels),
        "final_layer.linear": (config.in_channels, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "single_blocks.0.modulation.lin": (3 * width, width),
        "single_blocks.0.linear1": (7 * width, width),
        "single_blocks.0.linear2": (width, 5 * width),
    }
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        shapes |= {f"{block}_mod.lin": (6 * width, width), f"{block}_attn.qkv": (3 * width, width)}
        shapes |= {f"{block}_attn.proj": (width, width)}
        shapes |= {f"{block}_mlp.0": (4 * width, width), f"{block}_mlp.2": (width, 4 * width)}
    return shapes


def test_joined_layers_are_split(bundle, folder, tmp_path):
    """Names of the original code, whose changes diffusers converts as it converts weights."""
    theirs, random = open_theirs(folder, "FluxPipeline"), torch.Generator().manual_seed(1)
    transformer = theirs.transformer
    pairs = {name: factors(shape, random) for name, shape in original_layers(transformer).items()}
    whole = {f"{name}.weight": 0.5 * up @ down for name, (down, up) in pairs.items()}
    whole |= {f"{name}.bias": torch.zeros(len(up)) for name, (_, up) in pairs.items()}
    norms = [f"double_blocks.0.{stream}_attn.norm" for stream in ("img", "txt")] + ["single_blocks.0.norm"]
    whole |= {f"{norm}.{which}_norm.scale": torch.zeros(1) for norm in norms for which in ("query", "key")}
    convert = tiny(
        single_file_utils.convert_flux_transformer_checkpoint_to_diffusers, flux_widths(transformer.inner_dim)
    )
    changes = {name: value for name, value in convert(whole).items() if value.ndim == 2}
    layers = linear_layers(transformer)
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


def test_names_of_xlabs(bundle, folder, tmp_path):
    theirs, random = open_theirs(folder, "FluxPipeline"), torch.Generator().manual_seed(2)
    width = theirs.transformer.inner_dim
    shapes = {
        "double_blocks.0.processor.qkv_lora1": (3 * width, width),
        "double_blocks.0.processor.qkv_lora2": (3 * width, width),
        "double_blocks.0.processor.proj_lora1": (width, width),
        "double_blocks.0.processor.proj_lora2": (width, width),
        "single_blocks.0.processor.qkv_lora": (3 * width, width),
        "single_blocks.0.processor.proj_lora": (width, 5 * width),
    }
    tensors = {}
    for name, shape in shapes.items():
        tensors |= dict(zip((f"{name}.down.weight", f"{name}.up.weight"), factors(shape, random), strict=True))
    save_file(tensors, tmp_path / "x.safetensors")
    theirs.load_lora_weights(lora_conversion_utils._convert_xlabs_flux_lora_to_diffusers(dict(tensors)))
    check_lora(bundle, theirs, tmp_path / "x.safetensors", ARGUMENTS, layers={"transformer": 12})


def test_a_lora_of_another_width_is_refused(bundle, tmp_path):
    """Control LoRAs of the original repositories widen the first layer."""
    save_file({"img_in.lora_A.weight": torch.ones(2, 32), "img_in.lora_B.weight": torch.ones(32, 2)}, tmp_path / "x")
    with pytest.raises(InputError, match=r"got shape \(2, 32\), expected \(rank, 16\) for a weight of \(32, 16\)"):
        load(bundle, target="onnxruntime").loras.load(tmp_path / "x")
