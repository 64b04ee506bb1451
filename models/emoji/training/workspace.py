"""State that every training stage uses, and their shared random draws."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from diffoundry.runtime.errors import CheckpointError
from diffoundry_models.emoji.training.data import Emoji

__all__ = ["Workspace", "draw_indices", "draw_normal"]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The data, the output folder, and the initial weights.

    Attributes:
        out: the checkpoint folder that is being made.
        init: a checkpoint folder with the initial weights; None: from scratch.
        architecture: a checkpoint folder whose configs define networks from scratch.
        emoji: emoji to learn.
        images: images of the emoji, float32 (N, 3, 64, 64), -1 to 1, on the device.
    """

    out: Path
    init: Path | None
    architecture: Path
    emoji: Sequence[Emoji]
    images: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Device of the training."""
        return self.images.device

    @property
    def fingerprint(self) -> str:
        """Hash of the captions and images, in order."""
        digest = hashlib.sha256(repr([(one.label, one.tags) for one in self.emoji]).encode())
        digest.update(self.images.cpu().numpy().tobytes())
        return digest.hexdigest()

    def component(self, name: str, made_by: str) -> Path:
        """Folder of a component that an earlier stage made.

        Raises:
            CheckpointError: there is none yet.
        """
        folder = self.out / name
        if not (folder / "config.json").is_file() and not (folder / "tokenizer.json").is_file():
            raise CheckpointError(
                f"{self.out} has no {name} yet. Run --stage {made_by} first, or start from weights with --init."
            )
        return folder


def draw_indices(count: int, below: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Draw `count` whole numbers from 0 up to `below`, int64 (count,), on the processor."""
    return torch.randint(below, (count,), generator=generator).to(device)


def draw_normal(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw standard normal numbers of the shape and on the device of `like`, float32, on the processor."""
    return torch.randn(like.shape, generator=generator).to(like.device)
