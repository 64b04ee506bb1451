"""Tiny random checkpoints of systems over pixels, and of DiT."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers

__all__ = ["CHECKPOINTS", "CLASS_NAMES", "write_dit"]

CLASS_NAMES = {"0": "tench, Tinca tinca", "1": "goldfish", "207": "golden retriever"}


def _unet(size: int, **more: Any) -> diffusers.UNet2DModel:
    return diffusers.UNet2DModel(
        sample_size=size,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        **{
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **more,
        },
    )


def _consistency(classes: int | None) -> tuple[Any, Any]:
    unet = _unet(
        8,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=classes,
    )
    return unet, diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0)


def _score_sde_ve() -> tuple[Any, Any]:
    unet = _unet(
        8,
        block_out_channels=(32, 32),
        time_embedding_type="fourier",
        mid_block_scale_factor=2**0.5,
        center_input_sample=True,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    )
    return unet, diffusers.ScoreSdeVeScheduler(sigma_max=50.0, snr=0.075, correct_steps=2)


def _write(folder: Path, name: str, unet: Any, scheduler: Any) -> None:
    getattr(diffusers, name)(unet=unet, scheduler=scheduler).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][0] = "diffusers"  # of KarrasVe it writes "deprecated", which it cannot read
    (folder / "model_index.json").write_text(json.dumps(index))


def write_dit(folder: Path, **more: Any) -> None:
    """Write a DiT of two layers with a thousand classes, three of which have names; `more` changes its transformer."""
    transformer = diffusers.DiTTransformer2DModel(
        **{
            "sample_size": 8,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_embeds_ada_norm": 1000,
            **more,
        }
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"][1] = "Transformer2DModel"  # as published
    (folder / "model_index.json").write_text(json.dumps({**index, "id2label": CLASS_NAMES}))


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "consistency": lambda folder: _write(folder, "ConsistencyModelPipeline", *_consistency(7)),
    "consistency-unconditional": lambda folder: _write(folder, "ConsistencyModelPipeline", *_consistency(None)),
    "score-sde-ve": lambda folder: _write(folder, "ScoreSdeVePipeline", *_score_sde_ve()),
    "karras-ve": lambda folder: _write(
        folder, "KarrasVePipeline", _unet(32), diffusers.KarrasVeScheduler(sigma_max=4.0)
    ),
    "repaint": lambda folder: _write(
        folder, "RePaintPipeline", _unet(32), diffusers.RePaintScheduler(num_train_timesteps=100)
    ),
    "ddpm-classes": lambda folder: _write(
        folder, "DDPMPipeline", _unet(8, num_class_embeds=3), diffusers.DDPMScheduler()
    ),
    "ddpm": lambda folder: _write(folder, "DDPMPipeline", _unet(8), diffusers.DDPMScheduler()),
    "ddim": lambda folder: _write(folder, "DDIMPipeline", _unet(8), diffusers.DDIMScheduler()),
    "pndm": lambda folder: _write(folder, "PNDMPipeline", _unet(8), diffusers.PNDMScheduler()),
    "dit": write_dit,
    "dit-without-variance": lambda folder: write_dit(folder, out_channels=4),
}
"""Name to a function that writes the checkpoint into a folder."""
