"""The latents after every step of one image, of a pipeline of ours and of diffusers'."""

import diffusers
import numpy as np
import torch

ARGUMENTS = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "latent"}


def our_steps(pipe):
    """(steps, 1, 4, 8, 8)."""
    return np.stack([step.latents for step in pipe.start("a red apple", seed=0, **ARGUMENTS)])


def diffusers_steps(checkpoint, lora=None, scale=1.0):
    """Generate with diffusers, with a LoRA if one is passed."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(str(lora), adapter_name="x")
        pipe.set_adapters(["x"], [scale])
    latents = []

    def keep(_pipe, _index, _timestep, values):
        latents.append(values["latents"].numpy().copy())
        return {}

    pipe("a red apple", generator=torch.Generator().manual_seed(0), callback_on_step_end=keep, **ARGUMENTS)
    return np.stack(latents)
