"""Opens IP-Adapters of FLUX.1: a projection of CLIP's vector, and keys and values for every double block."""

from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.component_file import open_component_file
from diffoundry.exporter.checkpoints.flux_ip_adapter_weights import FLUX_ATTENTION, FLUX_PROJECTION
from diffoundry.exporter.component import Config, read_integer
from diffoundry.exporter.components.image_prompts import prompt_blocks
from diffoundry.exporter.components.ip_adapter import POOLED
from diffoundry.runtime.errors import CheckpointError

__all__ = ["flux_ip_adapter_config"]

_LARGE, _LARGE_TOKENS, _TOKENS = 65536, 16, 4
"""Numbers of a projection that makes 16 tokens; others make 4. diffusers: `FluxTransformer2DLoadersMixin`."""

_SOURCE = "transformer"

_PARTS = 4
"""Tensors of one block: weights and biases of keys and values."""


def flux_ip_adapter_config(path: Path, transformer: Config) -> dict[str, Any]:
    """Make the config of an adapter's projection from the shapes of its weights.

    Args:
        path: The file.
        transformer: Config of the checkpoint's transformer.

    Raises:
        CheckpointError: It is no IP-Adapter of FLUX.1, or made for another transformer.
    """
    file = open_component_file("--ip-adapter", str(path))
    names = [f"{start}proj.weight" for start in FLUX_PROJECTION if f"{start}proj.weight" in file.entries]
    matches = [(name, match) for name in file if (match := FLUX_ATTENTION.fullmatch(name)) is not None]
    if not names or not matches:
        raise CheckpointError(
            f"--ip-adapter {path}: got no IP-Adapter of FLUX.1, expected tensors {FLUX_PROJECTION[0]}* and "
            f"double_blocks.*; name a file such as XLabs' ip_adapter.safetensors"
        )
    blocks, configs = prompt_blocks(transformer), {_SOURCE: transformer}
    width = read_integer(configs, _SOURCE, "joint_attention_dim", 4096)
    heads = read_integer(configs, _SOURCE, "num_attention_heads", 24)
    inner = heads * read_integer(configs, _SOURCE, "attention_head_dim", 128)
    numbers = sorted({int(match[1]) for _, match in matches})
    complete = len(matches) == _PARTS * len(blocks)
    if numbers != list(range(len(blocks))) or not complete:
        raise CheckpointError(
            f"--ip-adapter {path}: got weights for {len(numbers)} double blocks, but the transformer has "
            f"{len(blocks)}, with {_PARTS} tensors each; it was made for another kind of checkpoint"
        )
    shapes = {tuple(file.entries[name].shape) for name, match in matches if match[4] == "weight"}
    made, taken = (int(side) for side in file.entries[names[0]].shape)
    tokens = _LARGE_TOKENS if made == _LARGE else _TOKENS
    if shapes != {(inner, width)} or made != tokens * width:
        raise CheckpointError(
            f"--ip-adapter {path}: got weights of shape {min(shapes)}, and a projection to {made} numbers, but the "
            f"transformer takes ({inner}, {width}), and {tokens} tokens of {width}; it was made for another kind of "
            f"checkpoint"
        )
    return {
        "_class_name": POOLED, "image_embed_dim": taken, "cross_attention_dim": width, "num_image_text_embeds": tokens,
        "layers": list(blocks),
    }  # fmt: skip
