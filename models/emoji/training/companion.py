"""Shared parts of the companions' training: the frozen base, its text embeddings, and the loss on v."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from diffoundry_models.emoji.training.checkpoint import load_network
from diffoundry_models.emoji.training.data import TEMPLATES, Emoji, draw_caption
from diffoundry_models.emoji.training.workspace import draw_indices, draw_normal

__all__ = ["Base", "Draw", "graphed", "load_base"]

_CHANCE = 4  # captions a label that `draw_caption` draws beforehand, beside those of the templates


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One batch of inputs for a loss on v.

    Attributes:
        picked: indices of emoji, int64 (B,), on the device.
        words: the text encoder's states, float32 (B, 77, width).
        steps: int64 (B,).
    """

    picked: torch.Tensor
    words: torch.Tensor
    steps: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Base:
    """Frozen networks of the base while a companion trains.

    Attributes:
        unet: float32, on the device, without gradients.
        vae: likewise.
        scheduler: the base's own.
        words: states of the text encoder for every emoji and caption, float32 (N, K, 77, width); the last is of the
            empty caption.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: DDIMScheduler
    words: torch.Tensor

    def draw(self, count: int, empty: float, generator: torch.Generator) -> Draw:
        """Draw random emoji, captions and steps on the processor; a share `empty` has the empty caption."""
        device = self.words.device
        kinds = self.words.shape[1] - 1
        picked = draw_indices(count, len(self.words), generator, device)
        kind = draw_indices(count, kinds, generator, torch.device("cpu"))
        kind = torch.where(torch.rand((count,), generator=generator) < empty, kinds, kind).to(device)
        steps = draw_indices(count, self.scheduler.config.num_train_timesteps, generator, device)
        return Draw(picked=picked, words=self.words[picked, kind], steps=steps)

    def noised(
        self, latents: torch.Tensor, steps: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add noise to scaled latents, and compute the v that a network should predict: both of the latents' shape."""
        noise = draw_normal(latents, generator)
        return self.scheduler.add_noise(latents, noise, steps), self.scheduler.get_velocity(latents, noise, steps)


def load_base(folder: Path, emoji: Sequence[Emoji], device: torch.device, seed: int) -> Base:
    """Open a checkpoint folder and run its text encoder on the captions of all emoji.

    Args:
        folder: a checkpoint in diffusers' layout.
        emoji: N of them; four captions of each come from the templates, four are drawn at random.
        device: device of the networks.
        seed: seed of the random captions.
    """
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", use_safetensors=True).float().to(device).eval()
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for one in emoji:
        captions = [template.format(one.label) for template in TEMPLATES]
        captions += [draw_caption(one, generator) or one.label for _ in range(_CHANCE)]
        ids = tokenizer([*captions, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            rows.append(encoder(ids.to(device)).last_hidden_state)
    unet = load_network(UNet2DConditionModel, folder / "unet").to(device).requires_grad_(False)
    vae = load_network(AutoencoderKL, folder / "vae").to(device).requires_grad_(False)
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    return Base(unet=unet, vae=vae, scheduler=scheduler, words=torch.stack(rows))


def graphed(objective: nn.Module, batch: Sequence[torch.Tensor]) -> Any:
    """Return the objective unchanged on a processor; on a CUDA device capture forward and backward pass as CUDA graphs.

    These networks are so small that a GPU waits for the next launch most of the time.

    Args:
        objective: from tensors to a scalar loss.
        batch: one batch, of the shapes of all.
    """
    if batch[0].device.type != "cuda":
        return objective
    return torch.cuda.make_graphed_callables(objective, tuple(batch), allow_unused_input=True)
