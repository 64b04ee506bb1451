"""A bundle of graphs with few nodes, written by hand: the interfaces of Stable Diffusion at little cost."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from tokenizers.pre_tokenizers import ByteLevel

from diffoundry.runtime.bundle.manifest import FORMAT_VERSION

__all__ = ["seal", "write_small_bundle", "write_small_tokenizer"]

_WIDTH = 8

_TEXT_ENCODER = """
<ir_version: 10, opset_import: ["": 20]>
g (int32[batch, sequence] input_ids, float[520, 8] weight)
  => (float[batch, sequence, 8] last_hidden_state, float[batch, 8] pooler_output)
<int64[1] axis = {1}>
{
  last_hidden_state = Gather (weight, input_ids)
  pooler_output = ReduceMean <keepdims = 0> (last_hidden_state, axis)
}
"""

_UNET = """
<ir_version: 10, opset_import: ["": 20]>
g (float[batch, 4, "height/2", "width/2"] sample, float[1] timestep, float[batch, sequence, 8] encoder_hidden_states,
   float[4, 4, 3, 3] weight)
  => (float[batch, 4, "height/2", "width/2"] out_sample)
<int64[2] axes = {1, 2}, int64[4] shape = {-1, 1, 1, 1}, float thousand = {1000.0}>
{
  c = Conv <pads = [1, 1, 1, 1]> (sample, weight)
  m = ReduceMean <keepdims = 0> (encoder_hidden_states, axes)
  r = Reshape (m, shape)
  t = Div (timestep, thousand)
  s = Add (r, t)
  out_sample = Add (c, s)
}
"""

_DECODER = """
<ir_version: 10, opset_import: ["": 20]>
g (float[batch, 4, "height/2", "width/2"] latent_sample, float[3, 4, 1, 1] weight)
  => (float[batch, 3, height, width] sample)
<float[4] scales = {1, 1, 2, 2}>
{
  c = Conv (latent_sample, weight)
  sample = Resize <mode = "nearest"> (c, , scales)
}
"""

_ENCODER = """
<ir_version: 10, opset_import: ["": 20]>
g (float[batch, 3, height, width] sample, float[8, 3, 2, 2] weight)
  => (float[batch, 8, "height/2", "width/2"] latent_parameters)
{ latent_parameters = Conv <strides = [2, 2]> (sample, weight) }
"""

_GRAPHS = {
    "text_encoder": ("text_encoder", "CLIPTextModel", _TEXT_ENCODER),
    "unet": ("denoiser", "UNet2DConditionModel", _UNET),
    "vae_decoder": ("vae_decoder", "AutoencoderKL", _DECODER),
    "vae_encoder": ("vae_encoder", "AutoencoderKL", _ENCODER),
}

_VAE = {
    "_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "latent_channels": 4, "in_channels": 3,
    "out_channels": 3, "sample_size": 16, "scaling_factor": 0.18215, "shift_factor": None, "layers_per_block": 1,
}  # fmt: skip

_CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": {"architectures": ["CLIPTextModel"], "num_hidden_layers": 1, "hidden_size": _WIDTH},
    "unet": {
        "_class_name": "UNet2DConditionModel", "sample_size": 8, "in_channels": 4, "out_channels": 4,
        "block_out_channels": [8, 8], "cross_attention_dim": _WIDTH, "time_cond_proj_dim": None, "layers_per_block": 1,
    },
    "vae_decoder": _VAE,
    "vae_encoder": _VAE,
}  # fmt: skip

_SCHEDULER = {
    "_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1", "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "clip_sample": False, "set_alpha_to_one": False,
    "steps_offset": 1, "prediction_type": "epsilon", "trained_betas": None, "timestep_spacing": "leading",
}  # fmt: skip

_INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "feature_extractor": [None, None],
    "requires_safety_checker": False, "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip


def write_small_bundle(root: Path) -> None:
    """Write the bundle, with a manifest whose sums fit."""
    components = {}
    for name, (role, network, text) in _GRAPHS.items():
        (root / name).mkdir(parents=True)
        inputs, outputs = _write_graph(root / name / "model.onnx", text)
        _write_json(root / name / "config.json", _CONFIGS[name])
        files = [f"{name}/model.onnx", f"{name}/model.onnx_data"]
        engine = {"target": "onnxruntime", "precision": "fp32", "files": files, "inputs": inputs, "outputs": outputs}
        components[name] = {"role": role, "network": network, "graph": files, "engines": [engine]}
    write_small_tokenizer(root / "tokenizer")
    (root / "scheduler").mkdir()
    _write_json(root / "scheduler/scheduler_config.json", _SCHEDULER)
    _write_json(root / "model_index.json", _INDEX)
    variants = [{"target": "onnxruntime", "precision": "fp32", "options": {}}]
    dims = {"batch": {"min": 1, "max": 4}, "height": {"multiple_of": 2}, "width": {"multiple_of": 2}}
    recipe = {"model": "m", "source": {}, "variants": variants, "dims": dims, "opset": 20}
    manifest = {"format_version": FORMAT_VERSION, "diffoundry": "0", "family": "stable_diffusion", "recipe": recipe}
    files = {str(path.relative_to(root)): {} for path in sorted(root.rglob("*")) if path.is_file()}
    _write_json(root / "diffoundry.json", {**manifest, "components": components, "files": files, "built_with": {}})
    seal(root, *files)


def seal(root: Path, *names: str) -> None:
    """Write the sizes and sums of files into the manifest."""
    path = root / "diffoundry.json"
    manifest = json.loads(path.read_bytes())
    for name in names:
        content = (root / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "parts": []}
    _write_json(path, manifest)


def write_small_tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer of all bytes and two merges."""
    folder.mkdir(parents=True)
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    _write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    _write_json(folder / "tokenizer_config.json", {"model_max_length": 16, "pad_token": "<|endoftext|>", **special})
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "added_tokens.json", {"<new>": len(tokens)})


def _write_graph(path: Path, text: str) -> tuple[list[Any], list[Any]]:
    """Save a graph with its weight beside it, and describe its inputs and outputs."""
    model = ir.from_onnx_text(text)
    weight = model.graph.inputs.pop()
    array = np.random.default_rng(0).standard_normal(weight.shape.numpy()).astype(np.float32) * 0.1
    weight.const_value = ir.tensor(array, name=weight.name)
    model.graph.register_initializer(weight)
    ir.save(model, path, external_data=f"{path.name}_data")
    return tuple(
        [
            {
                "name": value.name,
                "dtype": str(value.dtype.numpy()),
                "shape": [side if isinstance(side, int) else side.value for side in value.shape],
            }
            for value in values
        ]
        for values in (model.graph.inputs, model.graph.outputs)
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
