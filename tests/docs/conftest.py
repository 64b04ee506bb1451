"""Fixtures: a folder to run a page's commands in, and the files that pages name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from doc_pages import ROOT
from PIL import Image


@pytest.fixture
def page_folder(tmp_path: Path) -> Path:
    """An empty folder, except for the folders of a clone that pages name by relative paths."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("models", "docs", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="session")
def page_files(
    tiny_sd_checkpoint: Callable[[str], Path],
    tiny_controlnet: Callable[..., Path],
    tiny_t2i_adapter: Callable[..., Path],
    tiny_ip_adapter: Callable[..., Path],
) -> dict[str, Callable[[Path], object]]:
    """File that pages name and no command of theirs writes, to the function that writes it."""
    return {
        "in.png": lambda path: _ramp().save(path),
        "mask.png": lambda path: _upper_half().save(path),
        "story.txt": lambda path: path.write_text("a red apple on a wooden table, " * 20),
        "prompts.txt": lambda path: path.write_text("a red apple\na rocket\na cat face\na ghost\na pizza\na cactus\n"),
        "style.safetensors": lambda path: _write_lora(path, tiny_sd_checkpoint("sd1"), 1),
        "detail.safetensors": lambda path: _write_lora(path, tiny_sd_checkpoint("sd1"), 2),
        "cat.safetensors": _write_embedding,
        "canny": lambda path: shutil.copytree(tiny_controlnet("sd1"), path),
        "sketch-adapter": lambda path: shutil.copytree(tiny_t2i_adapter("sd1", "full"), path),
        "ip-adapter_sd15.safetensors": lambda path: shutil.copy(tiny_ip_adapter("sd1", "plain"), path),
        "image_encoder": lambda path: shutil.copytree(tiny_ip_adapter("sd1", "plain").parent / "image_encoder", path),
        "taesd": lambda path: shutil.copytree(tiny_sd_checkpoint("sd1-tiny") / "vae", path),
    }


def _ramp() -> Image.Image:
    ramp = np.tile(np.linspace(0, 255, 64), (64, 1))
    return Image.fromarray(np.stack([ramp, ramp.T, np.full((64, 64), 90.0)], axis=-1).astype(np.uint8))


def _upper_half() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 32))
    return mask


def _write_lora(path: Path, checkpoint: Path, seed: int) -> None:
    """Write a LoRA of rank 2 for the queries of a tiny checkpoint's UNet."""
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(next((checkpoint / "unet").glob("*.safetensors"))).items():
        if name.endswith(".to_q.weight"):
            layer = name.removesuffix(".weight")
            tensors[f"unet.{layer}.lora_A.weight"] = 0.1 * torch.randn(2, weight.shape[1], generator=generator)
            tensors[f"unet.{layer}.lora_B.weight"] = 0.1 * torch.randn(weight.shape[0], 2, generator=generator)
    save_file(tensors, path)


def _write_embedding(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"<cat>": torch.ones(1, 32)}, path)
