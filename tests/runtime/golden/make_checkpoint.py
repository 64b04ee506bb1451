"""Writes the checkpoint of the golden bundles and the expected images: run once, see README.md.

`python make_checkpoint.py FOLDER` writes `FOLDER/checkpoint` and `FOLDER/controlnet`, which `diffoundry export` reads,
and `FOLDER/lora.safetensors` and `FOLDER/expected.npz`, which are stored here. The weights depend on the version of
torch, so another run of this file needs new bundles too.
"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

WORDS = 2 * 256 + 2
"""Vocabulary of single bytes: each one inside a word, each one at the end of a word, start and end of text."""

ARGUMENTS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 16, "width": 16}


def write_checkpoint(folder: Path) -> None:
    """Write a Stable Diffusion checkpoint with as few nodes and weights as the classes of diffusers allow."""
    config = transformers.CLIPTextConfig(
        vocab_size=WORDS,
        bos_token_id=WORDS - 2,
        eos_token_id=WORDS - 1,
        pad_token_id=WORDS - 1,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=16,
        norm_num_groups=4,
        attention_head_dim=2,
    )
    vae = diffusers.AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = diffusers.DDIMScheduler(**schedule, set_alpha_to_one=False, clip_sample=False)
    parts = {
        "text_encoder": transformers.CLIPTextModel(config),
        "unet": unet,
        "vae": vae,
        "scheduler": scheduler,
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    _write_tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _write_tokenizer(folder: Path) -> None:
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    marks = {"bos_token": words[-2], "eos_token": words[-1], "pad_token": words[-1], "unk_token": words[-1]}
    config = {**marks, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def write_controlnet(folder: Path, unet: Any) -> None:
    """Write a ControlNet without zero weights, so that it changes the image."""
    net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    for parameter in net.parameters():
        if not parameter.any():
            parameter.data = 0.3 * torch.randn(parameter.shape)
    net.save_pretrained(folder)


def write_lora(path: Path, pipe: Any) -> None:
    """Write a LoRA of rank 2 for the attentions of the UNet and of the text encoder."""
    tensors = {}
    for part in ("unet", "text_encoder"):
        for name, layer in getattr(pipe, part).named_modules():
            if name.endswith(("to_q", "to_v", "q_proj", "v_proj")):
                tensors[f"{part}.{name}.lora_A.weight"] = torch.randn(2, layer.in_features)
                tensors[f"{part}.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2)
    save_file(tensors, path)


def generate(pipe: Any, prompt: str, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """Generate one image with seed 0.

    Returns:
        The latents after every step, (steps, 1, 4, 8, 8), and the image, (1, 16, 16, 3), both float32.
    """
    latents: list[np.ndarray] = []

    def keep(_pipe: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents.append(values["latents"].numpy().copy())
        return {}

    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        prompt,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        callback_on_step_end=keep,
        **ARGUMENTS,
        **arguments,
    ).images
    return np.stack(latents), images


def main(folder: Path) -> None:
    """Write everything into `folder`."""
    torch.manual_seed(12)
    write_checkpoint(folder / "checkpoint")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder / "checkpoint")
    write_controlnet(folder / "controlnet", pipe.unet)
    write_lora(folder / "lora.safetensors", pipe)
    net = diffusers.ControlNetModel.from_pretrained(folder / "controlnet")
    controlled = diffusers.StableDiffusionControlNetPipeline(**pipe.components, controlnet=net)
    hint = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    results = {
        "plain": generate(pipe, "a red apple"),
        "controlnet": generate(controlled, "a red apple", image=hint),
    }
    pipe.load_lora_weights(folder / "lora.safetensors")
    results["lora"] = generate(pipe, "a red apple")
    arrays = {f"{name}_latents": latents for name, (latents, _) in results.items()}
    np.savez_compressed(
        folder / "expected.npz", hint=hint, **arrays, **{f"{name}_image": image for name, (_, image) in results.items()}
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
