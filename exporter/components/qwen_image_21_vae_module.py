"""The two halves of AutoencoderKLQwenImage21 as traceable modules of two dimensions.

Blocks of both halves add their input in another size: averaged where it shrinks, repeated where it grows. Where
diffusers also halves or doubles the number of frames, half of what is averaged is an empty frame before the image, and
the last of the repeated frames is the image.
"""

from typing import Any

import torch
from diffusers.models.autoencoders import autoencoder_kl_qwenimage21 as qwen_vae
from torch.nn import functional

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.qwen_image_vae_module import Half, enlarge

__all__ = ["QwenImage21Decoder", "QwenImage21Encoder"]


class _Half(Half):
    """The layers of one half, whose convolutions have two dimensions."""

    residual: type[Any] = qwen_vae.QwenImage21ResidualBlock
    attention: type[Any] = qwen_vae.QwenImage21AttentionBlock

    def convolve(self, layer: Any, states: torch.Tensor) -> torch.Tensor:
        """Run a convolution on images (B, C, H, W). diffusers: `QwenImage21CausalConv3d`, which pads itself."""
        left, _right, top, _bottom = layer._padding  # noqa: SLF001
        result: torch.Tensor = functional.conv2d(states, layer.weight, layer.bias, layer.stride, (top, left))
        return result


class QwenImage21Encoder(_Half):
    """Computes the moments of latents. diffusers: `AutoencoderKLQwenImage21.encode`."""

    def __init__(self, network: Any, _component: Component) -> None:
        super().__init__(network.encoder)
        self.last = network.quant_conv

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Return mean and logarithm of the variance (B, 2 C, h, w) of images (B, 4, H, W)."""
        layers: Any = self.layers
        states = self.convolve(layers.conv_in, sample)
        for block in layers.down_blocks:
            if isinstance(block, qwen_vae.QwenImage21ResidualDownBlock):
                states = self._run_down(block, states)
            else:
                states = self.run_block(block, states)
        return (self.convolve(self.last, self.run_end(self.run_middle(states))),)

    def _run_down(self, block: Any, states: torch.Tensor) -> torch.Tensor:
        kept = _average(block.avg_shortcut, states)
        for residual in block.resnets:
            states = self.run_block(residual, states)
        return (states if block.downsampler is None else self.run_block(block.downsampler, states)) + kept


class QwenImage21Decoder(_Half):
    """Computes images, of which diffusers cuts off numbers beyond -1 to 1.

    diffusers: `AutoencoderKLQwenImage21.decode`.
    """

    def __init__(self, network: Any, _component: Component) -> None:
        super().__init__(network.decoder)
        self.first = network.post_quant_conv

    def forward(self, latent_sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Return images (B, 4, H, W) of latents (B, C, h, w)."""
        layers: Any = self.layers
        states = self.run_middle(self.convolve(layers.conv_in, self.convolve(self.first, latent_sample)))
        for block in layers.up_blocks:
            states = self._run_up(block, states)
        return (self.run_end(states),)

    def _run_up(self, block: Any, states: torch.Tensor) -> torch.Tensor:
        shortcut = getattr(block, "avg_shortcut", None)
        kept = None if shortcut is None else _repeat(shortcut, states)
        for residual in block.resnets:
            states = self.run_block(residual, states)
        for upsampler in _upsamplers(block):
            states = enlarge(upsampler, states)
        return states if kept is None else states + kept


def _upsamplers(block: Any) -> tuple[Any, ...]:
    """Return what doubles the size after a block. Blocks with a shortcut name it in another way."""
    if hasattr(block, "upsampler"):
        return () if block.upsampler is None else (block.upsampler,)
    return tuple(block.upsamplers or ())


def _average(shortcut: Any, states: torch.Tensor) -> torch.Tensor:
    """Average groups of channels, places and frames. diffusers: `QwenImage21AvgDown3D`."""
    places = functional.pixel_unshuffle(states, shortcut.factor_s) if shortcut.factor_s > 1 else states
    if shortcut.factor_t > 1:
        frame = torch.unflatten(places, 1, (states.shape[1], -1))
        empty = [torch.zeros_like(frame)] * (shortcut.factor_t - 1)
        places = torch.cat([*empty, frame], dim=2).flatten(1, 2)
    return torch.unflatten(places, 1, (shortcut.out_channels, shortcut.group_size)).mean(dim=2)


def _repeat(shortcut: Any, states: torch.Tensor) -> torch.Tensor:
    """Repeat channels as places of a larger image. diffusers: `QwenImage21DupUp3D` of the first frame."""
    repeated = states[:, :, None].expand(-1, -1, shortcut.repeats, -1, -1).flatten(1, 2)
    frames = torch.unflatten(repeated, 1, (shortcut.out_channels, -1))
    return functional.pixel_shuffle(frames[:, :, -(shortcut.factor_s**2) :].flatten(1, 2), shortcut.factor_s)
