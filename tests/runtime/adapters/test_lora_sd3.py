"""LoRAs of Stable Diffusion 3 at run time: transformer and text encoders, in the names of every program."""

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from pipeline_harness import diffusers_pipeline
from safetensors.torch import save_file

from diffoundry.exporter.checkpoints.tokenizer_files import open_tokenizer
from diffoundry.runtime import load
from diffoundry.runtime.errors import InputError

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5  # as of Stable Diffusion XL

ARGUMENTS = {"max_sequence_length": 16, "num_inference_steps": 2}


def factors(shape, random):
    """down and up of rank 2; the change is about as large as a weight."""
    down = torch.randn((2, shape[1]), generator=random) / shape[1] ** 0.5
    return down, torch.randn((shape[0], 2), generator=random) * 0.1


def linear_layers(module):
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)}


def test_every_step_is_diffusers(portable_bundle, diffusers_of, steps, error, tmp_path):
    """Names of PEFT, as diffusers writes them, for the transformer and both CLIP text encoders."""
    theirs, random = diffusers_of("sd3"), torch.Generator().manual_seed(0)
    layers = len(linear_layers(theirs.transformer))
    tensors = {}
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        for name, layer in linear_layers(getattr(theirs, part)).items():
            if part == "transformer" or name.endswith(("q_proj", "v_proj")):
                for side, tensor in zip("AB", factors(layer.weight.shape, random), strict=True):
                    tensors[f"{part}.{name}.lora_{side}.weight"] = tensor.half().contiguous()
    save_file({**tensors, "what.is.this": torch.ones(1)}, tmp_path / "x.safetensors")
    save_file(tensors, tmp_path / "theirs.safetensors")
    theirs.load_lora_weights(str(tmp_path / "theirs.safetensors"))
    expected = steps(theirs, **ARGUMENTS)
    for target in ("onnxruntime", "openvino"):
        ours = load(portable_bundle("sd3"), target=target)
        before = steps(ours, **ARGUMENTS)
        report = ours.loras.load(tmp_path / "x.safetensors")
        changed = steps(ours, **ARGUMENTS)
        assert error(changed, expected) < TOLERANCE
        assert error(changed, before) > 0.03
        assert report.unused == ("what.is.this",)
        assert report.layers["transformer"] == layers
        ours.loras.unload()
        after = steps(ours, **ARGUMENTS)
        assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))


def original_layers(transformer):
    """Layer of the original code to the shape of its weight, of a transformer of Stable Diffusion 3.5."""
    width, last = transformer.inner_dim, len(transformer.transformer_blocks) - 1
    config = transformer.config
    text, outputs = config.joint_attention_dim, config.patch_size**2 * transformer.out_channels
    shapes = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "y_embedder.mlp.0": (width, config.pooled_projection_dim),
        "y_embedder.mlp.2": (width, width),
        "context_embedder": (width, text),
        "final_layer.linear": (outputs, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for block in range(last + 1):
        for half in ("x_block", "context_block"):
            dual = half == "x_block" and block in config.dual_attention_layers
            ends = half == "context_block" and block == last
            own = {"attn.qkv": (3 * width, width)}
            own["adaLN_modulation.1"] = ((2 if ends else 9 if dual else 6) * width, width)
            if not ends:
                own |= {"attn.proj": (width, width), "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
            if dual:
                own |= {"attn2.qkv": (3 * width, width), "attn2.proj": (width, width)}
            shapes |= {f"joint_blocks.{block}.{half}.{name}": shape for name, shape in own.items()}
    return shapes


def converted(transformer, changes):
    """Changes of original weights as changes of diffusers' weights, by diffusers' own conversion."""
    width = transformer.inner_dim
    whole = {f"{name}.bias": torch.zeros(shape[0]) for name, shape in original_layers(transformer).items()}
    whole |= {f"{name}.weight": change for name, change in changes.items()}
    whole |= {
        "pos_embed": torch.zeros(1),
        "x_embedder.proj.weight": torch.zeros(1),
        "x_embedder.proj.bias": torch.zeros(1),
    }
    for name in [name.removesuffix(".qkv") for name in changes if name.endswith(".qkv")]:
        whole |= {f"{name}.ln_{which}.weight": torch.zeros(width) for which in "qk"}
    found = convert_sd3_transformer_checkpoint_to_diffusers(whole)
    return {
        name.removesuffix(".weight"): value
        for name, value in found.items()
        if name.endswith("weight") and value.ndim == 2
    }


NAMES = {
    "kohya": lambda name, end: f"lora_unet_{name.replace('.', '_')}.{end}",
    "original": lambda name, end: f"diffusion_model.{name}.{end}",
}


@pytest.mark.slow
def test_joined_layers_are_split(exported, tiny_sd_checkpoint, steps, error, tmp_path):
    """Names of the original code, which has one layer for queries, keys and values."""
    folder, random = tiny_sd_checkpoint("sd3.5"), torch.Generator().manual_seed(1)
    converted_tokenizer = open_tokenizer(folder / "tokenizer_3", "T5TokenizerFast")
    theirs = diffusers_pipeline(folder, "StableDiffusion3Pipeline", tokenizer_3=converted_tokenizer)
    pairs = {name: factors(shape, random) for name, shape in original_layers(theirs.transformer).items()}
    deltas = converted(theirs.transformer, {name: 0.5 * up @ down for name, (down, up) in pairs.items()})
    layers = linear_layers(theirs.transformer)
    assert deltas.keys() == layers.keys()
    for name, change in deltas.items():
        layers[name].weight.data += change
    expected, ours = steps(theirs, **ARGUMENTS), load(exported(folder))
    before = steps(ours, **ARGUMENTS)
    for form, name_of in NAMES.items():
        tensors = {}
        for name, (down, up) in pairs.items():
            tensors |= {name_of(name, "lora_down.weight"): down, name_of(name, "lora_up.weight"): up}
            tensors[name_of(name, "alpha")] = torch.tensor(1.0)
        save_file(tensors, tmp_path / f"{form}.safetensors")
        report = ours.loras.load(tmp_path / f"{form}.safetensors")
        assert report.layers == {"transformer": len(layers)}
        changed = steps(ours, **ARGUMENTS)
        assert error(changed, expected) < TOLERANCE
        assert error(changed, before) > 0.03
        ours.loras.unload()
        assert np.array_equal(steps(ours, **ARGUMENTS)[1], before[1])


def test_a_lora_of_another_width_is_refused(portable_bundle, tmp_path):
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    save_file(
        {f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(95, 2)},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(InputError, match=r"got shape \(95, 2\), expected \(96, 2\) for a weight of \(96, 32\)"):
        load(portable_bundle("sd3")).loras.load(tmp_path / "x.safetensors")
    save_file({"unet.x.lora_A.weight": torch.ones(2, 32)}, tmp_path / "y.safetensors")
    with pytest.raises(InputError, match="is for a unet, expected one for transformer, text"):
        load(portable_bundle("sd3")).loras.load(tmp_path / "y.safetensors")
