"""The last stage: the text encoder and the UNet, together, learn to predict v."""

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffoundry.runtime.errors import CheckpointError
from diffoundry_models.emoji.training.checkpoint import load_network, write_component
from diffoundry_models.emoji.training.data import draw_caption
from diffoundry_models.emoji.training.loop import Options, TrainingTask
from diffoundry_models.emoji.training.vae import encode
from diffoundry_models.emoji.training.workspace import Workspace, draw_indices, draw_normal

__all__ = ["denoiser_task", "write_denoiser"]


def denoiser_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the task: MSE on v over random latents, steps and captions; one caption in ten is empty.

    v = sqrt(a) noise - sqrt(1 - a) x. Salimans and Ho 2022, appendix D, https://arxiv.org/abs/2202.00512.
    """
    tokenizer = CLIPTokenizer.from_pretrained(space.component("tokenizer", "tokenizer"))
    module = _networks(space, tokenizer, options.seed).to(space.device).train()
    scheduler = DDIMScheduler.from_pretrained(space.out / "scheduler")
    vae = load_network(AutoencoderKL, space.component("vae", "vae")).to(space.device)
    mean, deviation = encode(vae, space.images)
    scale = vae.config.scaling_factor

    def loss(generator: torch.Generator) -> torch.Tensor:
        picked = draw_indices(options.batch, len(space.emoji), generator, torch.device("cpu"))
        captions = [draw_caption(space.emoji[i], generator) for i in picked.tolist()]
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        picked = picked.to(space.device)
        latents = (mean[picked] + deviation[picked] * draw_normal(mean[picked], generator)) * scale
        noise = draw_normal(latents, generator)
        steps = draw_indices(options.batch, scheduler.config.num_train_timesteps, generator, space.device)
        words = module["text_encoder"](ids.to(space.device)).last_hidden_state
        output = module["unet"](scheduler.add_noise(latents, noise, steps), steps, words).sample
        return functional.mse_loss(output, scheduler.get_velocity(latents, noise, steps))

    return TrainingTask(stage="denoiser", module=module, loss=loss, data=space.fingerprint)


def write_denoiser(space: Workspace, module: nn.ModuleDict) -> None:
    """Save text encoder and UNet in float16."""
    half = copy.deepcopy(module).half()
    for name in ("text_encoder", "unet"):
        network: Any = half[name]
        write_component(network, space.out / name)


def _networks(space: Workspace, tokenizer: CLIPTokenizer, seed: int) -> nn.ModuleDict:
    if space.init is not None:
        if _vocabulary(space.init) != _vocabulary(space.out):
            raise CheckpointError(
                f"The tokenizers of {space.init} and {space.out} differ, so the text encoder's weights do not fit. "
                "Train into an empty folder, or from scratch."
            )
        text_encoder = CLIPTextModel.from_pretrained(space.init / "text_encoder", use_safetensors=True)
        unet = load_network(UNet2DConditionModel, space.init / "unet")
    else:
        torch.manual_seed(seed)
        config = CLIPTextConfig.from_pretrained(space.architecture / "text_encoder")
        config.vocab_size = len(tokenizer)
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
        text_encoder = CLIPTextModel(config)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(space.architecture / "unet"))
    return nn.ModuleDict({"text_encoder": text_encoder.float(), "unet": unet})


def _vocabulary(folder: Path) -> bytes:
    return (folder / "tokenizer" / "tokenizer.json").read_bytes()
