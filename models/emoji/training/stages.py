"""The training stages in order: their defaults, and their runs."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffoundry_models.emoji.training.checkpoint import write_component
from diffoundry_models.emoji.training.data import Emoji
from diffoundry_models.emoji.training.denoiser import denoiser_task, write_denoiser
from diffoundry_models.emoji.training.loop import Options, Session, TrainingTask, train
from diffoundry_models.emoji.training.vae import autoencoder_task, decoder_task, write_vae
from diffoundry_models.emoji.training.vocabulary import train_tokenizer, write_tokenizer
from diffoundry_models.emoji.training.workspace import Workspace

__all__ = ["STAGES", "TrainingStage", "make_tokenizer", "run_stage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStage:
    """A stage that trains a network.

    Attributes:
        defaults: options of the shipped weights.
        task: makes the work from the workspace.
        write: saves the averaged weights.
    """

    defaults: Options
    task: Callable[[Workspace, Options], TrainingTask]
    write: Callable[[Workspace, Any], None]


# Steps: those of the shipped weights, 20 and 25 minutes of two processor cores for the autoencoder's stages.
STAGES = {
    "vae": TrainingStage(
        defaults=Options(steps=500, batch=32, lr=1e-3, decay=0.995),
        task=autoencoder_task,
        write=lambda space, vae: write_vae(space, vae, rescale=True),
    ),
    "vae-decoder": TrainingStage(
        defaults=Options(steps=1000, batch=32, lr=1e-3, decay=0.995),
        task=decoder_task,
        write=lambda space, vae: write_vae(space, vae, rescale=False),
    ),
    "denoiser": TrainingStage(
        defaults=Options(steps=4700, batch=64, lr=1.5e-3, decay=0.999), task=denoiser_task, write=write_denoiser
    ),
}


def run_stage(
    name: str, space: Workspace, session: Session, changes: dict[str, Any], table: Mapping[str, TrainingStage] = STAGES
) -> bool:
    """Run or resume one stage.

    Args:
        name: of the stage.
        space: the data and the place.
        session: settings for writing and stopping.
        changes: fields of `Options` that differ from the stage's defaults.
        table: table of the stages.

    Returns:
        True if its schedule has ended.
    """
    stage = table[name]
    options = dataclasses.replace(stage.defaults, **changes)

    def write(module: nn.Module) -> None:
        stage.write(space, module)

    file = space.out / "checkpoints" / f"{name}.pt"
    return train(stage.task(space, options), options, session, file, write)


def make_tokenizer(out: Path, emoji: list[Emoji], report: Callable[[str], None]) -> None:
    """Learn the vocabulary from the captions of all base emoji, unless `out` has one.

    All, even when fewer are generated: weights that are trained further on more of them keep their vocabulary.
    """
    folder = out / "tokenizer"
    if folder.exists():
        report(f"tokenizer: kept {folder}")
        return
    tokenizer = train_tokenizer(emoji)
    write_component(_Written(tokenizer), folder)
    report(f"tokenizer: {len(tokenizer)} entries")


@dataclass(frozen=True)
class _Written:
    tokenizer: Any

    def save_pretrained(self, folder: Path) -> None:
        write_tokenizer(self.tokenizer, folder)
