"""Writes single files as they are shared on model sites, from diffusers folders.

The names are those of diffusers' scripts `convert_diffusers_to_original_stable_diffusion.py` and `..._sdxl.py`, by
substitution as there, and independent of the tables that are tested.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESNETS = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
]

OUTSIDE = [
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
]


def ldm_unet(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The UNet's tensors by their original names."""
    layers = config["layers_per_block"]
    pairs = list(OUTSIDE)
    for i, kind in enumerate(config["up_block_types"]):
        for j in range(layers):
            pairs.append((f"down_blocks.{i}.resnets.{j}.", f"input_blocks.{(layers + 1) * i + j + 1}.0."))
            pairs.append((f"down_blocks.{i}.attentions.{j}.", f"input_blocks.{(layers + 1) * i + j + 1}.1."))
        for j in range(layers + 1):
            pairs.append((f"up_blocks.{i}.resnets.{j}.", f"output_blocks.{(layers + 1) * i + j}.0."))
            pairs.append((f"up_blocks.{i}.attentions.{j}.", f"output_blocks.{(layers + 1) * i + j}.1."))
        pairs.append((f"down_blocks.{i}.downsamplers.0.conv.", f"input_blocks.{(layers + 1) * (i + 1)}.0.op."))
        last = f"output_blocks.{(layers + 1) * i + layers}"
        pairs.append((f"up_blocks.{i}.upsamplers.0.", f"{last}.{2 if 'Cross' in kind else 1}."))
    pairs.append(("mid_block.attentions.0.", "middle_block.1."))
    pairs += [(f"mid_block.resnets.{j}.", f"middle_block.{2 * j}.") for j in range(2)]
    renamed = {}
    for name, tensor in state.items():
        new = name
        if "resnets" in name:
            for ours, theirs in RESNETS:
                new = new.replace(ours, theirs)
        start, theirs = next(pair for pair in pairs if new.startswith(pair[0]))
        renamed[theirs + new.removeprefix(start)] = tensor
    return renamed


def ldm_vae(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The VAE's tensors by their original names; attention is stored as convolutions."""
    levels = len(config["block_out_channels"])
    pairs = [
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("mid_block.attentions.0.", "mid.attn_1."),
    ]
    for i in range(levels):
        for j in range(config["layers_per_block"] + 1):
            pairs.append((f"encoder.down_blocks.{i}.resnets.{j}.", f"encoder.down.{i}.block.{j}."))
            pairs.append((f"decoder.up_blocks.{i}.resnets.{j}.", f"decoder.up.{levels - 1 - i}.block.{j}."))
        pairs.append((f"down_blocks.{i}.downsamplers.0.", f"down.{i}.downsample."))
        pairs.append((f"up_blocks.{i}.upsamplers.0.", f"up.{levels - 1 - i}.upsample."))
    pairs += [(f"mid_block.resnets.{i}.", f"mid.block_{i + 1}.") for i in range(2)]
    inside = [("group_norm.", "norm."), ("to_q.", "q."), ("to_k.", "k."), ("to_v.", "v."), ("to_out.0.", "proj_out.")]
    renamed = {}
    for name, tensor in state.items():
        new = name
        for ours, theirs in pairs + (inside if "attentions" in name else []):
            new = new.replace(ours, theirs)
        conv = "attentions" in name and tensor.ndim == 2
        renamed[new] = tensor[:, :, None, None] if conv else tensor
    return renamed


def clip(state: Mapping[str, Any], _config: Mapping[str, Any]) -> dict[str, Any]:
    """A text encoder in the names of transformers 4."""
    import torch

    named = {name if name.startswith("text_model.") else f"text_model.{name}": x for name, x in state.items()}
    return {**named, "text_model.embeddings.position_ids": torch.arange(77)[None]}


def open_clip(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A text encoder in the names of open_clip, with a last layer that is not used and a projection."""
    import torch

    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    layers, width = config["num_hidden_layers"], config["hidden_size"]
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in state:
        found["text_projection"] = state["text_projection.weight"].T.contiguous()
    else:  # Stable Diffusion 2
        found["text_projection"] = torch.ones(width, width)
        found[f"transformer.resblocks.{layers}.attn.in_proj_weight"] = torch.ones(3 * width, width)
        found[f"transformer.resblocks.{layers}.ln_1.bias"] = torch.ones(width)
    for i in range(layers):
        ours, theirs = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            thirds = [state[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(thirds)
            found[f"{theirs}.attn.out_proj.{kind}"] = state[f"{ours}.self_attn.out_proj.{kind}"]
            found[f"{theirs}.mlp.c_fc.{kind}"] = state[f"{ours}.mlp.fc1.{kind}"]
            found[f"{theirs}.mlp.c_proj.{kind}"] = state[f"{ours}.mlp.fc2.{kind}"]
            found[f"{theirs}.ln_1.{kind}"] = state[f"{ours}.layer_norm1.{kind}"]
            found[f"{theirs}.ln_2.{kind}"] = state[f"{ours}.layer_norm2.{kind}"]
    return found


_UNET_AND_VAE = {
    "unet": (ldm_unet, "model.diffusion_model."),
    "vae": (ldm_vae, "first_stage_model."),
}

LAYOUTS = {
    "sd1": {"text_encoder": (clip, "cond_stage_model.transformer."), **_UNET_AND_VAE},
    "sd2": {"text_encoder": (open_clip, "cond_stage_model.model."), **_UNET_AND_VAE},
    "xl": {
        "text_encoder": (clip, "conditioner.embedders.0.transformer."),
        "text_encoder_2": (open_clip, "conditioner.embedders.1.model."),
        **_UNET_AND_VAE,
    },
    "refiner": {"text_encoder_2": (open_clip, "conditioner.embedders.0.model."), **_UNET_AND_VAE},
}
"""Kind of a single file to folder, to the names and what they begin with."""


def single_file_tensors(
    kind: str, states: Mapping[str, Mapping[str, Any]], configs: Mapping[str, Any]
) -> dict[str, Any]:
    """All tensors of a single file, from the state dict of each network."""
    return {
        prefix + name: tensor
        for source, (rename, prefix) in LAYOUTS[kind].items()
        for name, tensor in rename(states[source], configs[source]).items()
    }


def read_folder(folder: Path, kind: str) -> dict[str, Any]:
    """All tensors of the single file that a diffusers folder would be."""
    from safetensors.torch import load_file

    states, configs = {}, {}
    for source in LAYOUTS[kind]:
        states[source] = load_file(next((folder / source).glob("*.safetensors")))
        configs[source] = json.loads((folder / source / "config.json").read_text())
    return single_file_tensors(kind, states, configs)


def write_tensors(tensors: Mapping[str, Any], path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Save; tensors may share memory."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {}) or None
    )
    return path


def write_sparse(shapes: Mapping[str, tuple[int, ...]], path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """A file of zeros in fp16 that takes no room on the disk, whatever its size."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return path
