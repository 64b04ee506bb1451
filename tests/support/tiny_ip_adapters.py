"""Writes tiny random IP-Adapters under the names of the published files, and their image encoder."""

import zlib
from pathlib import Path
from typing import Any

__all__ = ["write_tiny_flux_ip_adapter", "write_tiny_image_encoder", "write_tiny_ip_adapter"]

_PROJECTED, _HIDDEN = 24, 32
"""Widths of the image encoder: of its vector, and of its hidden states."""

_QUERIES, _INNER = 3, 64


def write_tiny_image_encoder(folder: Path) -> None:
    """Write CLIP's image encoder, for images of 32 x 32: 17 tokens."""
    import torch
    import transformers

    sizes = {"hidden_size": _HIDDEN, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(
        **sizes, image_size=32, patch_size=8, projection_dim=_PROJECTED, initializer_factor=8.0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)


def write_tiny_ip_adapter(path: Path, unet: Path, kind: str) -> None:
    """Write an IP-Adapter in one file.

    Args:
        path: Where.
        unet: Folder of the UNet that it fits.
        kind: "plain", "plus" (a resampler), "full" (every token of the encoder) or "face" (face embeddings).
    """
    import diffusers
    import torch
    from safetensors.torch import save_file

    network: Any = diffusers.UNet2DConditionModel.from_pretrained(unet)
    generator = torch.Generator().manual_seed(zlib.crc32(kind.encode()))

    def random(*shape: int, mean: float = 0.0) -> Any:
        return mean + 0.3 * torch.randn(shape, generator=generator)

    width = network.config.cross_attention_dim
    tensors = {f"image_proj.{name}": tensor for name, tensor in _projection(kind, width, random).items()}
    layers = [name for name in network.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(layers):
        channels = network.get_submodule(name.removesuffix(".processor")).to_q.in_features
        for part in ("to_k_ip", "to_v_ip"):
            tensors[f"ip_adapter.{2 * number + 1}.{part}.weight"] = random(channels, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def _projection(kind: str, width: int, random: Any) -> dict[str, Any]:
    if kind == "plain":
        return {
            "proj.weight": random(4 * width, _PROJECTED),
            "proj.bias": random(4 * width),
            "norm.weight": random(width, mean=1.0),
            "norm.bias": random(width),
        }
    if kind in ("full", "face"):
        norm = "proj.3" if kind == "full" else "norm"
        return {
            "proj.0.weight": random(_HIDDEN, _HIDDEN),
            "proj.0.bias": random(_HIDDEN),
            "proj.2.weight": random(width, _HIDDEN),
            "proj.2.bias": random(width),
            f"{norm}.weight": random(width, mean=1.0),
            f"{norm}.bias": random(width),
        }
    tensors = {
        "latents": random(1, _QUERIES, _INNER),
        "proj_in.weight": random(_INNER, _HIDDEN),
        "proj_in.bias": random(_INNER),
        "proj_out.weight": random(width, _INNER),
        "proj_out.bias": random(width),
        "norm_out.weight": random(width, mean=1.0),
        "norm_out.bias": random(width),
    }
    for layer in range(4):  # as many as diffusers builds
        attention, feed_forward = f"layers.{layer}.0", f"layers.{layer}.1"
        for norm in (f"{attention}.norm1", f"{attention}.norm2", f"{feed_forward}.0"):
            tensors |= {f"{norm}.weight": random(_INNER, mean=1.0), f"{norm}.bias": random(_INNER)}
        tensors |= {
            f"{attention}.to_q.weight": random(64, _INNER),
            f"{attention}.to_kv.weight": random(128, _INNER),
            f"{attention}.to_out.weight": random(_INNER, 64),
            f"{feed_forward}.1.weight": random(4 * _INNER, _INNER),
            f"{feed_forward}.3.weight": random(_INNER, 4 * _INNER),
        }
    return tensors


def write_tiny_flux_ip_adapter(path: Path, transformer: Path, names: str) -> None:
    """Write an IP-Adapter of FLUX.1 in one file.

    Args:
        path: Where.
        transformer: Folder of the transformer that it fits.
        names: "xlabs" or "diffusers".
    """
    import diffusers
    import torch
    from safetensors.torch import save_file

    network: Any = diffusers.FluxTransformer2DModel.from_pretrained(transformer)
    generator = torch.Generator().manual_seed(zlib.crc32(names.encode()))

    def random(*shape: int, mean: float = 0.0) -> Any:
        return mean + 0.3 * torch.randn(shape, generator=generator)

    width, xlabs = network.config.joint_attention_dim, names == "xlabs"
    start = "ip_adapter_proj_model" if xlabs else "image_proj"
    tensors = {f"{start}.{name}": tensor for name, tensor in _projection("plain", width, random).items()}
    for number in range(network.config.num_layers):
        for part in "kv":
            layer = (
                f"double_blocks.{number}.processor.ip_adapter_double_stream_{part}_proj"
                if xlabs
                else f"ip_adapter.{number}.to_{part}_ip"
            )
            tensors |= {f"{layer}.weight": random(network.inner_dim, width), f"{layer}.bias": random(network.inner_dim)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
