"""Fixtures for all tests: tiny random checkpoints, made once a session."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_EMOJI = Path(__file__).parents[1] / "models/emoji"

_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd1": ("PNDMScheduler", {"skip_prk_steps": True}),
    "sd2": ("DDIMScheduler", {"prediction_type": "v_prediction", "clip_sample": False}),
}


def _write_tiny_sd(folder: Path, variant: str) -> None:
    """Write a random StableDiffusion checkpoint of some 8 MB.

    Both variants: three UNet levels, a VAE of factor 8, attention heads of 16 channels and more, the tokenizer of
    models/emoji. "sd1" is built like Stable Diffusion 1 (epsilon, one number of heads, convolutions as projections,
    quick GELU); "sd2" like Stable Diffusion 2 (v-prediction, heads per level, linear projections, GELU).
    """
    import diffusers
    import torch
    import transformers

    second = variant == "sd2"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(variant) + second)
        text_encoder = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=4295,
                bos_token_id=4293,
                eos_token_id=4294,
                pad_token_id=4294,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                hidden_act="gelu" if second else "quick_gelu",
            )
        )
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            norm_num_groups=8,
            attention_head_dim=[2, 4, 4] if second else 2,
            use_linear_projection=second,
            upcast_attention=second,
        )
        vae = diffusers.AutoencoderKL(
            sample_size=64,
            block_out_channels=(16, 16, 32, 32),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
            latent_channels=4,
        )
    name, options = _SCHEDULERS[variant]
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = getattr(diffusers, name)(**schedule, set_alpha_to_one=False, **options)
    for part, model in {"text_encoder": text_encoder, "unet": unet, "vae": vae, "scheduler": scheduler}.items():
        model.save_pretrained(folder / part)
    shutil.copytree(_EMOJI / "tokenizer", folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", name],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


@pytest.fixture(scope="session")
def tiny_sd_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Factory: the folder of a tiny random checkpoint, "sd1" (default) or "sd2"; shared, so never write into it."""
    made: dict[str, Path] = {}

    def make(variant: str = "sd1") -> Path:
        if variant not in made:
            folder = tmp_path_factory.mktemp("checkpoint") / f"tiny-{variant}"
            _write_tiny_sd(folder, variant)
            made[variant] = folder
        return made[variant]

    return make
