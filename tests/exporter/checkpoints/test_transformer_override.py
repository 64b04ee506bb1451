"""The transformer of a single file, in the names of FLUX.1's original code, against diffusers' conversion."""

import inspect
import json

import pytest
import torch
from click.testing import CliRunner
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel, ZImageTransformer2DModel
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from tiny_flux import DEV, SCHNELL, make_flux

from diffoundry.exporter.checkpoints.checkpoint import open_checkpoint, open_recipe
from diffoundry.exporter.checkpoints.transformer_override import open_transformer
from diffoundry.exporter.cli.export import command as export
from diffoundry.exporter.recipe import make_recipe
from diffoundry.exporter.request import ExportRequest
from diffoundry.exporter.verify import VerifyRequest, verify
from diffoundry.runtime import load
from diffoundry.runtime.bundle.specs import Variant
from diffoundry.runtime.errors import CheckpointError

INDEX = {"transformer": ["diffusers", "FluxTransformer2DModel"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux") / "schnell"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        make_flux(folder, scheduler={}, **SCHNELL)
    return folder


def original_names(transformer):
    """Tensors of the original code, random, of the size of a transformer."""
    width, config = transformer.inner_dim, transformer.config
    sides = {
        "time_in.in_layer": (width, 256), "time_in.out_layer": (width, width),
        "vector_in.in_layer": (width, config.pooled_projection_dim), "vector_in.out_layer": (width, width),
        "txt_in": (width, config.joint_attention_dim), "img_in": (width, config.in_channels),
        "final_layer.linear": (transformer.out_channels, width), "final_layer.adaLN_modulation.1": (2 * width, width),
        "single_blocks.0.modulation.lin": (3 * width, width), "single_blocks.0.linear1": (7 * width, width),
        "single_blocks.0.linear2": (width, 5 * width),
    }  # fmt: skip
    if config.guidance_embeds:
        sides |= {"guidance_in.in_layer": (width, 256), "guidance_in.out_layer": (width, width)}
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        sides |= {f"{block}_mod.lin": (6 * width, width), f"{block}_attn.qkv": (3 * width, width)}
        sides |= {f"{block}_attn.proj": (width, width)}
        sides |= {f"{block}_mlp.0": (4 * width, width), f"{block}_mlp.2": (width, 4 * width)}
    random = torch.Generator().manual_seed(6)
    tensors = {f"{name}.weight": torch.randn(shape, generator=random) * 0.1 for name, shape in sides.items()}
    tensors |= {f"{name}.bias": torch.randn(shape[:1], generator=random) * 0.1 for name, shape in sides.items()}
    norms = [f"double_blocks.0.{stream}_attn.norm" for stream in ("img", "txt")] + ["single_blocks.0.norm"]
    for norm in norms:
        for which in ("query", "key"):
            shape = (config.attention_head_dim,)
            tensors[f"{norm}.{which}_norm.scale"] = 1 + 0.1 * torch.randn(shape, generator=random)
    return tensors


def converted(tensors, width):
    """Tensors in diffusers' names, by its conversion for the published width."""
    function = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    names = dict(vars(single_file_utils))
    exec(inspect.getsource(function).replace("3072", str(width)), names)
    return names[function.__name__](dict(tensors))


def write(folder, path, prefix="", dtype=torch.float32, **options):
    """Write a file of random tensors, and return it with the module that diffusers makes of them."""
    config = json.loads((folder / "transformer/config.json").read_text())
    module = FluxTransformer2DModel.from_config({**config, **options})
    tensors = {name: tensor.to(dtype) for name, tensor in original_names(module).items()}
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    module.load_state_dict(converted({name: tensor.float() for name, tensor in tensors.items()}, module.inner_dim))
    return module


CASES = {
    "fp16": ({"dtype": torch.float16, **DEV}, "widened"),
    "fp8": ({"dtype": torch.float8_e4m3fn, "prefix": "model.diffusion_model.", **SCHNELL}, "F8_E4M3 are widened"),
    "Fill": ({"dtype": torch.bfloat16, "in_channels": 48, "out_channels": 16, **DEV}, ""),
}


def test_every_weight_is_diffusers(folder, tmp_path):
    for name, (options, note) in CASES.items():
        file = tmp_path / f"{name}.safetensors"
        expected = write(folder, file, **options)
        opened = open_transformer(str(file), INDEX, folder / "transformer/config.json")
        module = opened.file.load("diffusers:FluxTransformer2DModel")
        assert module.state_dict().keys() == expected.state_dict().keys()
        for weight, tensor in expected.state_dict().items():
            torch.testing.assert_close(module.state_dict()[weight], tensor, rtol=0, atol=0)
        same = ("in_channels", "guidance_embeds", "num_layers", "num_single_layers", "joint_attention_dim")
        assert [module.config[field] for field in same] == [expected.config[field] for field in same]
        assert list(module.config.axes_dims_rope) == list(expected.config.axes_dims_rope)
        assert "".join(opened.file.notices("transformer")).endswith(f"{note} to fp32, exactly" if "F8" in note else "")


def z_image_names(module):
    """Tensors of Z-Image's original code, random, of the size of a transformer."""
    own, tensors = {name: torch.randn_like(tensor) for name, tensor in module.state_dict().items()}, {}
    for name, tensor in own.items():
        original = name.replace("norm_q", "q_norm").replace("norm_k", "k_norm").replace("to_out.0", "out")
        original = original.replace("all_final_layer.2-1", "final_layer").replace("all_x_embedder.2-1", "x_embedder")
        if ".to_q." in name:
            parts = [own[name.replace("to_q", f"to_{letter}")] for letter in "qkv"]
            tensors[original.replace("to_q", "qkv")] = torch.cat(parts)
        elif ".to_k." not in name and ".to_v." not in name:
            tensors[original] = tensor
    return {**tensors, "norm_final.weight": torch.ones(3)}


def test_every_weight_of_z_image_is_diffusers(tmp_path):
    options = {
        "in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
        "cap_feat_dim": 24, "axes_dims": [4, 6, 6], "axes_lens": [640, 64, 64],
    }  # fmt: skip
    module = ZImageTransformer2DModel(**options)
    module.save_config(tmp_path)
    index = {"transformer": ["diffusers", "ZImageTransformer2DModel"]}
    for prefix, dtype in (("", torch.bfloat16), ("model.diffusion_model.", torch.float32)):
        tensors = {name: tensor.to(dtype) for name, tensor in z_image_names(module).items()}
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "z.safetensors")
        whole = {prefix + name: tensor.float() for name, tensor in tensors.items()}
        expected = single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers(whole)
        opened = open_transformer(str(tmp_path / "z.safetensors"), index, tmp_path / "config.json")
        loaded = opened.file.load("diffusers:ZImageTransformer2DModel")
        assert loaded.state_dict().keys() == expected.keys() == module.state_dict().keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
        assert {name: loaded.config[name] for name in options} == options
    save_file({"layers.0.attention.qkv.weight": torch.ones(2, 2)}, tmp_path / "short.safetensors")
    for file, words in (
        (
            tmp_path / "short.safetensors",
            "tensor x_embedder.weight: got none, expected the transformer of Z-Image in th",
        ),
        (
            tmp_path / "none",
            "expected a .safetensors file with the transformer of Z-Image in the names of its original",
        ),
    ):
        with pytest.raises(CheckpointError, match=words):
            open_transformer(str(file), index, tmp_path / "config.json")


def flux_2_names(module):
    """Tensors of FLUX.2's original code, random, of the size of a transformer."""
    width, config = module.inner_dim, module.config
    wide, steps = int(config.mlp_ratio * width), config.timestep_guidance_channels
    shapes = {
        "img_in.weight": (width, config.in_channels), "txt_in.weight": (width, config.joint_attention_dim),
        "time_in.in_layer.weight": (width, steps), "time_in.out_layer.weight": (width, width),
        "double_stream_modulation_img.lin.weight": (6 * width, width),
        "double_stream_modulation_txt.lin.weight": (6 * width, width),
        "single_stream_modulation.lin.weight": (3 * width, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.linear.weight": (config.in_channels, width),
    }  # fmt: skip
    if config.guidance_embeds:
        shapes |= {"guidance_in.in_layer.weight": (width, steps), "guidance_in.out_layer.weight": (width, width)}
    norms = [f"single_blocks.{index}.norm" for index in range(config.num_single_layers)]
    for index in range(config.num_single_layers):
        shapes[f"single_blocks.{index}.linear1.weight"] = (3 * width + 2 * wide, width)
        shapes[f"single_blocks.{index}.linear2.weight"] = (width, width + wide)
    for block in (f"double_blocks.{i}.{stream}" for i in range(config.num_layers) for stream in ("img", "txt")):
        norms.append(f"{block}_attn.norm")
        shapes |= {f"{block}_attn.qkv.weight": (3 * width, width), f"{block}_attn.proj.weight": (width, width)}
        shapes |= {f"{block}_mlp.0.weight": (2 * wide, width), f"{block}_mlp.2.weight": (width, wide)}
    for norm in norms:
        shapes |= {f"{norm}.{side}_norm.scale": (config.attention_head_dim,) for side in ("query", "key")}
    random = torch.Generator().manual_seed(7)
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def test_every_weight_of_flux_2_is_diffusers(tmp_path):
    index, options = {"transformer": ["diffusers", "Flux2Transformer2DModel"]}, {
        "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 48, "timestep_guidance_channels": 32, "axes_dims_rope": [4, 4, 4, 4], "mlp_ratio": 2.5,
        "rope_theta": 1000,
    }  # fmt: skip
    file = tmp_path / "flux-2.safetensors"
    for prefix, dtype, guided in (("", torch.bfloat16, True), ("model.diffusion_model.", torch.float8_e4m3fn, False)):
        module = Flux2Transformer2DModel(**options, guidance_embeds=guided)
        module.save_config(tmp_path)
        tensors = {name: tensor.to(dtype) for name, tensor in flux_2_names(module).items()}
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, file)
        whole = {name: tensor.float() for name, tensor in tensors.items()}
        expected = single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers(whole)
        opened = open_transformer(str(file), index, tmp_path / "config.json")
        loaded = opened.file.load("diffusers:Flux2Transformer2DModel")
        assert loaded.state_dict().keys() == expected.keys() == module.state_dict().keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
        assert {name: loaded.config[name] for name in options} == options
        assert loaded.config.guidance_embeds is guided
    save_file({"double_stream_modulation_img.lin.weight": torch.ones(2, 2)}, file)
    with pytest.raises(CheckpointError, match=r"tensor img_in.weight: got none, expected the transformer of FLUX\.2"):
        open_transformer(str(file), index, tmp_path / "config.json")


def test_a_recipe_names_the_file(folder, tmp_path):
    """The file decides whether guidance is embedded."""
    file = tmp_path / "dev.safetensors"
    write(folder, file, **DEV)
    plain, other = open_checkpoint(str(folder)), open_checkpoint(str(folder), transformer=str(file))
    inputs = [{spec.name for spec in one.component("transformer").inputs} for one in (plain, other)]
    assert inputs[1] - inputs[0] == {"guidance"}
    recipe = make_recipe(other, ExportRequest(variants=(Variant(target="onnxruntime", precision="fp32"),)))
    assert recipe.source["transformer"] == str(file)
    again = open_recipe(recipe)
    assert again.identity() == recipe.source != plain.identity()
    assert again.reopen(again.describe()).identity() == recipe.source


@pytest.mark.slow
def test_an_export_with_another_transformer(folder, tmp_path):
    file, bundle = tmp_path / "dev.safetensors", tmp_path / "x.bundle"
    write(folder, file, **DEV)
    arguments = [str(folder), "--transformer", str(file), "--target", "onnxruntime", "-o", str(bundle)]
    told = CliRunner().invoke(export, arguments)
    assert told.exit_code == 0, told.output
    assert load(bundle).denoiser.embeds_guidance
    assert [check for check in verify(bundle, None, VerifyRequest(steps=2)).all_checks if not check.passed] == []


def test_files_that_are_refused(folder, tmp_path):
    good, short = tmp_path / "good.safetensors", tmp_path / "short.safetensors"
    write(folder, good)
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.ones(2, 2)}, short)
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}, other := tmp_path / "x.safetensors")
    for file, index, words in (
        (good, {"unet": ["diffusers", "UNet2DConditionModel"]}, "got a checkpoint with none, expected one with Flux"),
        (short, INDEX, "tensor img_in.weight: got none, expected the transformer of FLUX.1"),
        (other, INDEX, r"got tensors of no UNet .* expected the transformer of FLUX.1 in the names of its orig"),
        (tmp_path / "none", INDEX, "expected a .safetensors file with the transformer of FLUX.1"),
    ):
        with pytest.raises(CheckpointError, match=words):
            open_transformer(str(file), index, folder / "none")
    with pytest.raises(CheckpointError, match="--transformer .*: got a checkpoint with"):
        open_checkpoint("emoji", transformer=str(good))
