"""The two halves of AutoencoderKLQwenImage as traceable modules, for videos of one image.

Its causal convolutions see an image and those before it, which are zeros for the first. So only the last slice of their
kernels counts, and they are convolutions of two dimensions. Layers between times are not run for one image.
"""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageAttentionBlock, QwenImageResidualBlock
from torch.nn import functional

from diffoundry.exporter.component import Component

__all__ = ["Half", "QwenImageDecoder", "QwenImageEncoder", "enlarge"]


class Half(torch.nn.Module):
    """The layers of one half. Attributes of `layers` are those of diffusers' module.

    Attributes:
        residual: Class of its residual blocks.
        attention: Class of its blocks with attention.
    """

    residual: type[Any] = QwenImageResidualBlock
    attention: type[Any] = QwenImageAttentionBlock

    def __init__(self, layers: Any, *others: Any) -> None:
        super().__init__()
        self._flat = {
            layer: _flatten(layer) for part in (layers, *others) for layer in part.modules() if _is_causal(layer)
        }
        self.convolutions = torch.nn.ModuleList(self._flat.values())
        self.layers = layers

    def convolve(self, layer: Any, states: torch.Tensor) -> torch.Tensor:
        """Run a causal convolution on images (B, C, H, W)."""
        result: torch.Tensor = self._flat[layer](states)
        return result

    def run_block(self, block: Any, states: torch.Tensor) -> torch.Tensor:
        """Run a block on images (B, C, H, W)."""
        if isinstance(block, self.residual):
            return self._run_residual(block, states)
        if isinstance(block, self.attention):
            return _attend(block, states)
        resampled: torch.Tensor = block.resample(states)
        return resampled

    def run_middle(self, states: torch.Tensor) -> torch.Tensor:
        """Run the middle block."""
        middle: Any = self.layers.mid_block
        states = self.run_block(middle.resnets[0], states)
        for attention, residual in zip(middle.attentions, middle.resnets[1:], strict=True):
            states = self.run_block(residual, self.run_block(attention, states))
        return states

    def run_end(self, states: torch.Tensor) -> torch.Tensor:
        """Run the last normalization and convolution."""
        layers: Any = self.layers
        return self.convolve(layers.conv_out, layers.nonlinearity(_normalize(layers.norm_out, states)))

    def _run_residual(self, block: Any, states: torch.Tensor) -> torch.Tensor:
        shortcut = block.conv_shortcut
        kept = states if isinstance(shortcut, torch.nn.Identity) else self.convolve(shortcut, states)
        for norm, layer in ((block.norm1, block.conv1), (block.norm2, block.conv2)):
            states = self.convolve(layer, block.nonlinearity(_normalize(norm, states)))
        return states + kept


class QwenImageEncoder(Half):
    """Computes the moments of latents. diffusers: `AutoencoderKLQwenImage.encode`."""

    def __init__(self, network: Any, _component: Component) -> None:
        super().__init__(network.encoder, network.quant_conv)
        self.last = network.quant_conv

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Return mean and logarithm of the variance (B, 2 C, h, w) of images (B, 3, H, W)."""
        layers: Any = self.layers
        states = self.convolve(layers.conv_in, sample)
        for block in layers.down_blocks:
            states = self.run_block(block, states)
        return (self.convolve(self.last, self.run_end(self.run_middle(states))),)


class QwenImageDecoder(Half):
    """Computes images, of which diffusers cuts off numbers beyond -1 to 1 where it takes no tiles.

    diffusers: `AutoencoderKLQwenImage.decode`.
    """

    def __init__(self, network: Any, _component: Component) -> None:
        super().__init__(network.decoder, network.post_quant_conv)
        self.first = network.post_quant_conv

    def forward(self, latent_sample: torch.Tensor) -> tuple[torch.Tensor]:
        """Return images (B, 3, H, W) of latents (B, C, h, w)."""
        layers: Any = self.layers
        states = self.run_middle(self.convolve(layers.conv_in, self.convolve(self.first, latent_sample)))
        for block in layers.up_blocks:
            for residual in block.resnets:
                states = self.run_block(residual, states)
            for upsampler in block.upsamplers or ():
                states = enlarge(upsampler, states)
        return (self.run_end(states),)


def _is_causal(layer: Any) -> bool:
    return isinstance(layer, torch.nn.Conv3d)


def _flatten(layer: Any) -> torch.nn.Conv2d:
    """Return the convolution of the last slice of a causal one's kernel."""
    left, _right, top, _bottom, _before, _after = layer._padding  # noqa: SLF001  # diffusers pads itself
    flat = torch.nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size[1:], stride=layer.stride[1:], padding=(top, left)
    )
    # A copy: a weight of another shape shall not have the name of the checkpoint's.
    flat.weight = torch.nn.Parameter(layer.weight.detach()[:, :, -1].clone(), requires_grad=False)
    flat.bias = layer.bias
    return flat


def _normalize(norm: Any, states: torch.Tensor) -> torch.Tensor:
    """Normalize each place to the length of its channels. diffusers: `QwenImageRMS_norm`."""
    scaled: torch.Tensor = functional.normalize(states, dim=1) * (norm.scale * norm.gamma.reshape(-1, 1, 1))
    return scaled


def _attend(block: Any, states: torch.Tensor) -> torch.Tensor:
    """Attend from each place to all. diffusers: `QwenImageAttentionBlock`."""
    batch, channels, height, width = states.shape
    joined = block.to_qkv(_normalize(block.norm, states)).flatten(2).transpose(1, 2)[:, None]
    query, key, value = joined.chunk(3, dim=-1)
    attended = functional.scaled_dot_product_attention(query, key, value)[:, 0]
    moved = attended.transpose(1, 2).reshape(batch, channels, height, width)
    result: torch.Tensor = block.proj(moved) + states
    return result


def enlarge(upsampler: Any, states: torch.Tensor) -> torch.Tensor:
    """Double the size. "nearest" is "nearest-exact" where sides are doubled."""
    _, layer = upsampler.resample
    result: torch.Tensor = layer(functional.interpolate(states, scale_factor=2.0, mode="nearest"))
    return result
