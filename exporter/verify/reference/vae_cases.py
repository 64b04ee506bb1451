"""Cases of both halves of a VAE: a run's final latents, and its image."""

from typing import Any

import diffusers
import numpy as np
import torch

from diffoundry.exporter.verify.reference.component_cases import ComponentCase
from diffoundry.exporter.verify.reference.pipeline_trace import Trace, to_numpy

__all__ = ["decoder_cases", "encoder_cases"]


_OF_FRAMES = (diffusers.AutoencoderKLQwenImage, diffusers.AutoencoderKLQwenImage21)
"""VAEs of videos, which run here for one frame."""


def decoder_cases(pipeline: Any, trace: Trace) -> list[ComponentCase]:
    """Make a case of a run's final latents, in the VAE's own scale."""
    if isinstance(pipeline.vae, diffusers.AutoencoderKLFlux2):
        return [_token_case(pipeline, trace)]
    latents = trace.latents[-1]
    if isinstance(pipeline, diffusers.QwenImageLayeredPipeline):
        latents = _latents_of_layers(pipeline, trace)
    elif latents.ndim == 3:  # tokens in a row
        size = (*trace.result.shape[:2], pipeline.vae_scale_factor)
        latents = to_numpy(pipeline._unpack_latents(torch.from_numpy(latents), *size))  # noqa: SLF001
    decode = _decode_frame if isinstance(pipeline.vae, _OF_FRAMES) else _decode
    with torch.inference_mode():
        latents, sample = decode(pipeline.vae, latents)
    return [_decoder_case(trace, latents, sample)]


def _latents_of_layers(pipeline: Any, trace: Trace) -> np.ndarray:
    """Return the latents (layers, C, 1, h, w) of a run whose result has its layers below one another."""
    layers, (height, width, _) = _count_layers(pipeline, trace), trace.result.shape
    size = height // layers, width, layers, pipeline.vae_scale_factor
    (channels,) = pipeline._unpack_latents(torch.from_numpy(trace.latents[-1]), *size)  # noqa: SLF001
    return to_numpy(channels.transpose(0, 1)[1:, :, None])


def _count_layers(pipeline: Any, trace: Trace) -> int:
    """Return the layers of a result, whose loop also has the tokens of the whole image; 1 of other pipelines."""
    if not isinstance(pipeline, diffusers.QwenImageLayeredPipeline):
        return 1
    height, width, side = *trace.result.shape[:2], 2 * pipeline.vae_scale_factor
    decoded = (height // side) * (width // side)
    return int(decoded // (trace.latents[-1].shape[1] - decoded))


def _decoder_case(trace: Trace, latents: np.ndarray, sample: torch.Tensor) -> ComponentCase:
    feeds, expected = {"latent_sample": latents}, {"sample": to_numpy(sample)}
    return ComponentCase(component="vae_decoder", label=f"latents of {trace.name}", feeds=feeds, expected=expected)


def _token_case(pipeline: Any, trace: Trace) -> ComponentCase:
    """Make the case of FLUX.2, whose latents are normalized tokens. diffusers: `Flux2Pipeline.__call__`."""
    vae = pipeline.vae
    place = [side // (2 * pipeline.vae_scale_factor) for side in trace.result.shape[:2]]
    tokens = torch.unflatten(torch.from_numpy(trace.latents[-1]).permute(0, 2, 1), 2, place)
    deviation = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
    with torch.inference_mode():
        latents = pipeline._unpatchify_latents(tokens * deviation[:, None, None] + vae.bn.running_mean[:, None, None])  # noqa: SLF001
        return _decoder_case(trace, to_numpy(latents), vae.decode(latents).sample)


def encoder_cases(pipeline: Any, trace: Trace) -> list[ComponentCase]:
    """Make a case of a run's final image, or of its first layer."""
    result = trace.result[: trace.result.shape[0] // _count_layers(pipeline, trace)]
    image = np.ascontiguousarray(result.transpose(2, 0, 1)[None] * 2 - 1)
    frames = isinstance(pipeline.vae, _OF_FRAMES)
    pixels = torch.from_numpy(image)
    with torch.inference_mode():
        encoded = pipeline.vae.encode(pixels[:, :, None] if frames else pixels)
    if hasattr(encoded, "latent_dist"):
        said = {"latent_parameters": encoded.latent_dist.parameters}
    else:
        said = {"latents": encoded.latent if hasattr(encoded, "latent") else encoded.latents}
    expected = {name: to_numpy(values[:, :, 0] if frames else values) for name, values in said.items()}
    return [ComponentCase(component="vae_encoder", label=trace.name, feeds={"sample": image}, expected=expected)]


def _decode(vae: Any, latents: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Return latents (B, C, h, w) in the VAE's own scale, and their image."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    latents = latents / np.float32(vae.config.scaling_factor) + np.float32(shift)
    return latents, vae.decode(torch.from_numpy(latents)).sample


def _decode_frame(vae: Any, latents: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Return latents of one frame (B, C, 1, h, w) in the VAE's own scale, and their image before `decode` cuts it."""
    mean, std = (np.float32(getattr(vae.config, name)).reshape(-1, 1, 1) for name in ("latents_mean", "latents_std"))
    latents = latents[:, :, 0] * std + mean
    vae.clear_cache()
    frame = vae.post_quant_conv(torch.from_numpy(latents)[:, :, None])
    first = {"first_chunk": True} if isinstance(vae, diffusers.AutoencoderKLQwenImage21) else {}
    return latents, vae.decoder(frame, feat_cache=vae._feat_map, feat_idx=[0], **first)[:, :, 0]  # noqa: SLF001
