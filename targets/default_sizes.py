"""Sizes that a checkpoint was made for, for engines that need numbers where the user named none."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from diffoundry.runtime.bundle.dims import parse_size
from diffoundry.runtime.models.roles import DENOISER, TEXT_ENCODER, role_of_folder
from diffoundry.targets.base import usual_sizes

__all__ = ["DefaultSizes", "config_of_role", "folders_of_role", "read_default_sizes"]

_CLIP_TOKENS = 77


@dataclass(frozen=True, kw_only=True, slots=True)
class DefaultSizes:
    """Sizes of one image without any wishes of the user.

    Attributes:
        height: In pixels, or None when the configs do not say.
        width: In pixels, likewise.
        sequence: Tokens of a text.
        others: Further symbols of the graph's dimensions to their sizes, such as those of image prompts.
    """

    height: int | None = None
    width: int | None = None
    sequence: int = _CLIP_TOKENS
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def symbols(self) -> dict[str, int | None]:
        """Every symbol to its size."""
        return {"height": self.height, "width": self.width, "sequence": self.sequence, **self.others}


def read_default_sizes(model: ir.Model, bundle: Path) -> DefaultSizes:
    """Read the sizes from the graph's metadata, otherwise from the configs of the denoiser and the text encoder.

    Args:
        model: A portable graph, whose dimensions give the pixels that an element of the latents covers.
        bundle: The bundle's folder. During an export it has no manifest yet, so the role follows from a folder's name.
    """
    side = config_of_role(bundle, DENOISER).get("sample_size")
    sides = (side, side) if isinstance(side, int) else side if isinstance(side, list) else (None, None)
    height, width = (
        size * factor if isinstance(size, int) and (factor := _latent_factor(model, symbol)) else None
        for size, symbol in zip(sides, ("height", "width"), strict=True)
    )
    others = usual_sizes(model)
    height, width = others.pop("height", height), others.pop("width", width)
    tokens = others.pop("sequence", config_of_role(bundle, TEXT_ENCODER).get("max_position_embeddings"))
    sequence = tokens if isinstance(tokens, int) else _CLIP_TOKENS
    return DefaultSizes(height=height, width=width, sequence=sequence, others=others)


def folders_of_role(bundle: Path, *roles: str) -> list[Path]:
    """List the component folders of a bundle that have one of these roles, in the order of their names."""
    return sorted(folder for folder in bundle.iterdir() if folder.is_dir() and role_of_folder(folder.name) in roles)


def _latent_factor(model: ir.Model, symbol: str) -> int | None:
    """Return the pixels that an element of the latents covers: 8 of "height/8"; None for graphs without latents."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        for dim in value.shape or ():
            size = parse_size(str(dim))
            if size.symbol == symbol and size.divisor > 1 and not size.up:
                return size.divisor
    return None


def config_of_role(bundle: Path, role: str) -> Mapping[str, Any]:
    """Read the config.json of the first component of a role; empty when there is none."""
    for folder in folders_of_role(bundle, role):
        try:
            held = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(held, dict):
            return held
    return {}
