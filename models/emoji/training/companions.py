"""Commands that train a companion: their options, stages and data."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from diffoundry.runtime.errors import CheckpointError
from diffoundry_models.emoji.training import data
from diffoundry_models.emoji.training.checkpoint import SHIPPED
from diffoundry_models.emoji.training.command import report
from diffoundry_models.emoji.training.controlnet import ENCODER, controlnet_task, write_controlnet
from diffoundry_models.emoji.training.inversion import encoder_task, write_encoder
from diffoundry_models.emoji.training.loop import Options, Session
from diffoundry_models.emoji.training.motion import FACTOR
from diffoundry_models.emoji.training.stages import TrainingStage, run_stage
from diffoundry_models.emoji.training.workspace import Workspace

__all__ = ["EDGES", "train_edges", "train_flat"]

EDGES = {
    "encoder": TrainingStage(
        defaults=Options(steps=4600, batch=128, lr=5e-4, warmup=50, decay=0.99),
        task=encoder_task,
        write=lambda space, vae: write_encoder(vae, space.out / ENCODER),
    ),
    "controlnet": TrainingStage(
        defaults=Options(steps=12100, batch=256, lr=1e-3, warmup=200, decay=0.9995),
        task=controlnet_task,
        write=lambda space, controlnet: write_controlnet(controlnet, space.out),
    ),
}


def train_flat(options: argparse.Namespace) -> None:
    """Train the style LoRA on the flat images of the base's labels."""
    # Here, not above: training the other companion must not need peft.
    from diffoundry_models.emoji.training.lora import lora_task, write_lora

    table = {
        "lora": TrainingStage(
            defaults=Options(steps=1400, batch=256, lr=1.5e-3, warmup=200, decay=0.9995),
            task=lora_task,
            write=lambda space, unet: write_lora(unet, space.out),
        )
    }
    emoji = data.flat_emoji(_known(options), options.data)
    _run(options, emoji, data.images(emoji), table, ["lora"])


def train_edges(options: argparse.Namespace) -> None:
    """Train the ControlNet, after the encoder for its training."""
    emoji = _known(options)
    stages = list(EDGES) if options.stage == "all" else [options.stage]
    _run(options, emoji, data.images(emoji, FACTOR), EDGES, stages)


def _known(options: argparse.Namespace) -> list[data.Emoji]:
    base: Path = options.base
    if not (base / "model_index.json").is_file():
        raise CheckpointError(f"--base: {base} is not a checkpoint folder: it has no model_index.json.")
    own = base / "captions.json"
    labels = data.read_labels(own if own.is_file() else SHIPPED / "captions.json")
    return data.select(data.load_emoji(options.data), labels)


def _run(
    options: argparse.Namespace,
    emoji: Sequence[data.Emoji],
    images: torch.Tensor,
    table: Mapping[str, TrainingStage],
    stages: Sequence[str],
) -> None:
    if options.device == "cuda":
        torch.set_float32_matmul_precision("high")  # TensorFloat-32
    options.out.mkdir(parents=True, exist_ok=True)
    space = Workspace(
        out=options.out,
        init=options.base,
        architecture=options.base,
        emoji=emoji,
        images=images.to(options.device),
    )
    session = Session(resume=options.resume, minutes=options.minutes, save_every=options.save_every, report=report)
    names = ("steps", "batch", "lr", "warmup", "seed")
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    for stage in stages:
        if not run_stage(stage, space, session, changes, table):
            break
