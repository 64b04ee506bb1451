"""The style LoRA: low-rank changes of the base's UNet that make it generate the flat images."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn
from torch.nn import functional

from diffoundry_models.emoji.training.companion import graphed, load_base
from diffoundry_models.emoji.training.inversion import find_latents
from diffoundry_models.emoji.training.loop import Options, TrainingTask
from diffoundry_models.emoji.training.workspace import Workspace

__all__ = ["RANK", "lora_task", "write_lora"]

RANK = 32
_EMPTY = 0.10
_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv", "conv_in", "conv_out"),
)


def lora_task(space: Workspace, options: Options) -> TrainingTask:
    """Make the task: MSE on v for the images of the workspace, as the base was trained, with the base frozen.

    Low-rank adaptation: Hu et al. 2021, section 4.1, https://arxiv.org/abs/2106.09685, of every attention, feed-forward
    layer and convolution of the UNet.
    """
    folder = space.init or space.architecture
    base = load_base(folder, space.emoji, space.device, options.seed)
    latents = find_latents(base.vae, space.images) * base.vae.config.scaling_factor
    torch.manual_seed(options.seed)
    base.unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(_LAYERS))
    )
    base.unet.train()

    def batch(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        draw = base.draw(options.batch, _EMPTY, generator)
        noisy, target = base.noised(latents[draw.picked], draw.steps, generator)
        return noisy, draw.steps, draw.words, target

    objective = graphed(_Objective(base.unet), batch(torch.Generator().manual_seed(options.seed)))
    return TrainingTask(
        stage="lora", module=base.unet, loss=lambda generator: objective(*batch(generator)), data=space.fingerprint
    )


def write_lora(unet: UNet2DConditionModel, out: Path) -> None:
    """Save the adapter in float16 as `pytorch_lora_weights.safetensors` atomically."""
    layers = get_peft_model_state_dict(unet)
    config = {**unet.peft_config["default"].to_dict(), "target_modules": sorted(_LAYERS)}
    name, scratch = "pytorch_lora_weights.safetensors", "pytorch_lora_weights.tmp.safetensors"
    StableDiffusionPipeline.save_lora_weights(
        out,
        unet_lora_layers={key: value.half().contiguous() for key, value in layers.items()},
        unet_lora_adapter_metadata={key: config[key] for key in ("r", "lora_alpha", "target_modules")},
        weight_name=scratch,
    )
    (out / scratch).chmod(0o644)
    (out / scratch).replace(out / name)


class _Objective(nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, noisy: torch.Tensor, steps: torch.Tensor, words: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        return functional.mse_loss(self.unet(noisy, steps, words).sample, target)
