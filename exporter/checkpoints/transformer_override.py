"""Opens the transformer of --transformer: a single file in the names of the original code of FLUX or Z-Image."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from diffoundry.runtime.models.z_image_transformer_2d import PATCH

__all__ = ["TRANSFORMER", "open_transformer"]

TRANSFORMER = "transformer"
"""Folder of the network, and its name among the sources of a recipe."""

_PREFIXES = ("model.diffusion_model.", "")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Original:
    """A transformer in the names of its original code.

    Attributes:
        layout: As in `FilePart`.
        title: In messages.
        mark: Beginning of the name of a tensor that only this transformer has.
        config: (file, shapes of its tensors, config.json of the checkpoint's own transformer) -> config.json.
    """

    layout: str
    title: str
    mark: str
    config: Callable[[Safetensors, Shapes, Config], dict[str, Any]]

    @property
    def expected(self) -> str:
        """The kind of file in messages."""
        return f"the transformer of {self.title} in the names of its original code ({self.mark.partition('.')[0]}.*)"


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
    kind = str(named[1]) if isinstance(named, list) and len(named) > 1 else ""
    original = _ORIGINALS.get(kind)
    if original is None:
        raise CheckpointError(
            f"--transformer {text}: got a checkpoint with {kind or 'none'}, expected one with {' or '.join(_ORIGINALS)}"
        )
    link = describe_link(Path(text))
    if link is not None:
        raise CheckpointError(f"--transformer: {text}: {link}")
    if not Path(text).is_file():
        raise CheckpointError(f"--transformer: got {text!r}, expected a .safetensors file with {original.expected}")
    file = open_component_file("--transformer", text)
    prefix = next((start for start in _PREFIXES if starts_with(file, f"{start}{original.mark}")), None)
    if prefix is None:
        raise CheckpointError(f"--transformer {text}: {describe_tensors(file.entries)}; expected {original.expected}")
    part = FilePart(source=TRANSFORMER, title="transformer", layout=original.layout, prefixes=(prefix,))
    shapes = {name.removeprefix(prefix): entry.shape for name, entry in file.entries.items() if name.startswith(prefix)}
    config = original.config(file, shapes, read_json(own) if own.is_file() else {})
    return place_network(file, TRANSFORMER, {"_class_name": kind, **config}, part)


def _blocks_config(file: Safetensors, shapes: Shapes, title: str) -> dict[str, Any]:
    """Make what the configs of FLUX.1 and FLUX.2 share; errors as `_flux_config`."""
    width, channels = _shape(file, shapes, title, "img_in.weight", 2)
    (head,) = _shape(file, shapes, title, "double_blocks.0.img_attn.norm.query_norm.scale", 1)
    outputs, _ = _shape(file, shapes, title, "final_layer.linear.weight", 2)
    return {
        "attention_head_dim": head,
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "in_channels": channels,
        "joint_attention_dim": _shape(file, shapes, title, "txt_in.weight", 2)[1],
        "num_attention_heads": width // head,
        "num_layers": _count(shapes, "double_blocks"),
        "num_single_layers": _count(shapes, "single_blocks"),
        "out_channels": outputs,
        "patch_size": 1,
    }


def _flux_config(file: Safetensors, shapes: Shapes, own: Config) -> dict[str, Any]:
    """Make the config of FLUX.1.

    Raises:
        CheckpointError: A tensor that it follows from is missing, or of another shape.
    """
    return {
        **_blocks_config(file, shapes, "FLUX.1"),
        **({"axes_dims_rope": own["axes_dims_rope"]} if "axes_dims_rope" in own else {}),
        "pooled_projection_dim": _shape(file, shapes, "FLUX.1", "vector_in.in_layer.weight", 2)[1],
    }


def _flux_2_config(file: Safetensors, shapes: Shapes, own: Config) -> dict[str, Any]:
    """Make the config of FLUX.2. Positions are those of the checkpoint's own transformer.

    Raises:
        CheckpointError: As `_flux_config`.
    """
    shared = _blocks_config(file, shapes, "FLUX.2")
    width, hidden = _shape(file, shapes, "FLUX.2", "double_blocks.0.img_mlp.2.weight", 2)
    return {
        **{key: value for key, value in own.items() if not key.startswith("_")},
        **shared,
        "mlp_ratio": hidden / width,
        "timestep_guidance_channels": _shape(file, shapes, "FLUX.2", "time_in.in_layer.weight", 2)[1],
    }


def _z_image_config(file: Safetensors, shapes: Shapes, own: Config) -> dict[str, Any]:
    """Make the config of Z-Image. Positions are those of the checkpoint's own transformer.

    Raises:
        CheckpointError: As `_flux_config`.
    """
    width, channels = _shape(file, shapes, "Z-Image", "x_embedder.weight", 2)
    (head,) = _shape(file, shapes, "Z-Image", "layers.0.attention.q_norm.weight", 1)
    (text,) = _shape(file, shapes, "Z-Image", "cap_embedder.0.weight", 1)
    return {
        **{key: value for key, value in own.items() if not key.startswith("_")},
        "cap_feat_dim": text,
        "dim": width,
        "in_channels": channels // PATCH**2,
        "n_heads": width // head,
        "n_kv_heads": width // head,
        "n_layers": _count(shapes, "layers"),
        "n_refiner_layers": _count(shapes, "noise_refiner"),
    }


def _shape(file: Safetensors, shapes: Shapes, title: str, name: str, axes: int) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) != axes or not all(shape):
        got = f"shape {shape}" if shape else "none"
        raise CheckpointError(
            f"--transformer {file.path}: tensor {name}: got {got}, expected "
            f"the transformer of {title} in the names of its original code"
        )
    return shape


def _count(shapes: Shapes, block: str) -> int:
    """Return the number of blocks of a kind."""
    found = [int(match[1]) for match in (re.match(rf"{block}\.(\d+)\.", name) for name in shapes) if match is not None]
    return max(found, default=-1) + 1


_ORIGINALS = {
    "FluxTransformer2DModel": _Original(
        layout="flux", title="FLUX.1", mark="double_blocks.0.img_attn.", config=_flux_config
    ),
    "Flux2Transformer2DModel": _Original(
        layout="flux_2", title="FLUX.2", mark="double_stream_modulation_img.", config=_flux_2_config
    ),
    "ZImageTransformer2DModel": _Original(
        layout="z_image", title="Z-Image", mark="layers.0.attention.qkv.", config=_z_image_config
    ),
}
"""Class of a transformer to its original code."""
