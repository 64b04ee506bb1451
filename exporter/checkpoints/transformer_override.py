"""Opens the transformer of --transformer: a single file in the names of FLUX.1's original code."""

import re
from pathlib import Path
from typing import Any

from diffoundry.exporter.checkpoints.component_file import (
    OutsideNetwork,
    open_component_file,
    place_network,
    starts_with,
)
from diffoundry.exporter.checkpoints.json_files import read_json
from diffoundry.exporter.checkpoints.single_file.architectures import FilePart
from diffoundry.exporter.checkpoints.single_file.detect import describe_tensors
from diffoundry.exporter.component import Config
from diffoundry.runtime.errors import CheckpointError
from diffoundry.runtime.formats.recognize import describe_link
from diffoundry.runtime.formats.safetensors import Safetensors

__all__ = ["TRANSFORMER", "open_transformer"]

TRANSFORMER = "transformer"
"""Folder of the network, and its name among the sources of a recipe."""

_CLASS = "FluxTransformer2DModel"
_PREFIXES = ("model.diffusion_model.", "")
_EXPECTED = "the transformer of FLUX.1 in the names of its original code (double_blocks.*)"


def open_transformer(text: str, index: Config, own: Path) -> OutsideNetwork:
    """Open a transformer, whose config follows from the shapes of its tensors.

    Args:
        text: The file.
        index: model_index.json of the checkpoint.
        own: config.json of the checkpoint's own transformer, where it has one: of the axes of the rotary positions.

    Raises:
        CheckpointError: The file is damaged or holds something else, or the checkpoint has another kind of transformer.
    """
    named = index.get(TRANSFORMER)
    if named != ["diffusers", _CLASS]:
        found = named[1] if isinstance(named, list) and len(named) > 1 else None
        raise CheckpointError(
            f"--transformer {text}: got a checkpoint with {found or 'none'}, expected one with {_CLASS}"
        )
    link = describe_link(Path(text))
    if link is not None:
        raise CheckpointError(f"--transformer: {text}: {link}")
    if not Path(text).is_file():
        raise CheckpointError(f"--transformer: got {text!r}, expected a .safetensors file with {_EXPECTED}")
    file = open_component_file("--transformer", text)
    prefix = next((start for start in _PREFIXES if starts_with(file, f"{start}double_blocks.0.img_attn.")), None)
    if prefix is None:
        raise CheckpointError(f"--transformer {text}: {describe_tensors(file.entries)}; expected {_EXPECTED}")
    part = FilePart(source=TRANSFORMER, title="transformer", layout="flux", prefixes=(prefix,))
    config = _config(file, prefix, read_json(own) if own.is_file() else {})
    return place_network(file, TRANSFORMER, config, part)


def _config(file: Safetensors, prefix: str, own: Config) -> dict[str, Any]:
    """Make config.json.

    Raises:
        CheckpointError: A tensor that it follows from is missing, or of another shape.
    """
    shapes = {name.removeprefix(prefix): entry.shape for name, entry in file.entries.items() if name.startswith(prefix)}
    width, channels = _shape(file, shapes, "img_in.weight", 2)
    (head,) = _shape(file, shapes, "double_blocks.0.img_attn.norm.query_norm.scale", 1)
    outputs, _ = _shape(file, shapes, "final_layer.linear.weight", 2)
    return {
        "_class_name": _CLASS,
        "attention_head_dim": head,
        **({"axes_dims_rope": own["axes_dims_rope"]} if "axes_dims_rope" in own else {}),
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "in_channels": channels,
        "joint_attention_dim": _shape(file, shapes, "txt_in.weight", 2)[1],
        "num_attention_heads": width // head,
        "num_layers": _count(shapes, "double_blocks"),
        "num_single_layers": _count(shapes, "single_blocks"),
        "out_channels": outputs,
        "patch_size": 1,
        "pooled_projection_dim": _shape(file, shapes, "vector_in.in_layer.weight", 2)[1],
    }


def _shape(file: Safetensors, shapes: dict[str, tuple[int, ...]], name: str, axes: int) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) != axes or not all(shape):
        got = f"shape {shape}" if shape else "none"
        raise CheckpointError(f"--transformer {file.path}: tensor {name}: got {got}, expected {_EXPECTED}")
    return shape


def _count(shapes: dict[str, tuple[int, ...]], block: str) -> int:
    """Return the number of blocks of a kind."""
    found = [int(match[1]) for match in (re.match(rf"{block}\.(\d+)\.", name) for name in shapes) if match is not None]
    return max(found, default=-1) + 1
