"""A random LoRA for linear layers and convolutions of a checkpoint's UNet and text encoder."""

import diffusers
import torch
from safetensors.torch import save_file


def random_lora(checkpoint, path, rank=3):
    """Write one in PEFT's names; it changes each weight by a fifth. Every third layer has none."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(checkpoint)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for part in ("unet", "text_encoder"):
        for count, (name, module) in enumerate(getattr(pipe, part).named_modules()):
            if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d) or count % 3 == 0:
                continue
            weight = module.weight.detach()
            size = weight[0].numel() ** 0.5
            down = torch.randn((rank, *weight.shape[1:]), generator=generator) / size
            up = torch.randn((weight.shape[0], rank, *(1 for _ in weight.shape[2:])), generator=generator)
            tensors[f"{part}.{name}.lora_A.weight"] = down
            tensors[f"{part}.{name}.lora_B.weight"] = up * (0.2 * weight.std().item() * size / rank**0.5)
    save_file(tensors, path)
    return path
