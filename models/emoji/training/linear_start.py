"""A first autoencoder that averages and interpolates, so that training begins at a usable image.

Red, green and blue run through all layers beside free channels. Residual branches begin at zero. The norm before the
last layer sees s, -s, c and -c in one group. Their mean is zero and their spread is nearly that of the constant c, so
the norm hardly depends on the image. SiLU(s) - SiLU(-s) = s, so the last layer gets the color back.
"""

import torch
from diffusers import AutoencoderKL
from torch import nn

__all__ = ["start_linear"]

_CONSTANT = 3.0
_COLORS = 3
_WHITE = 1.0
_LOG_VARIANCE = -5.0
_MEAN_2 = torch.tensor([0.5, 0.5, 0.0])  # of a pair of pixels: the third is the padding's or the next pair's
_TENT = torch.tensor([0.25, 0.5, 0.25])  # after nearest enlargement: linear interpolation


@torch.no_grad()
def start_linear(vae: AutoencoderKL) -> None:
    """Change random initial weights so that latents are the colors averaged by 4 x 4, and images their interpolation.

    Args:
        vae: with `mid_block_add_attention=False` and one channel of latents more than colors, which stays free.
    """
    groups = vae.config.norm_num_groups
    encoder, decoder = vae.encoder, vae.decoder
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif name.endswith("conv_shortcut"):
            _carry(module, groups)
        elif name.endswith("downsamplers.0.conv"):
            _carry(module, groups, _MEAN_2)
        elif name.endswith("upsamplers.0.conv"):
            _carry(module, groups, _TENT)
    _enter(encoder.conv_in, groups, -_WHITE)
    _enter(decoder.conv_in, groups, 0.0)
    _leave(encoder.conv_out, groups, 0.0)
    _leave(decoder.conv_out, groups, _WHITE)
    latents = vae.config.latent_channels
    encoder.conv_out.bias[latents:] = _LOG_VARIANCE
    encoder.conv_out.weight[latents:] = 0.0
    for layer in (vae.quant_conv, vae.post_quant_conv):
        layer.weight.copy_(torch.eye(len(layer.weight))[..., None, None])
        layer.bias.zero_()


def _places(channels: int, groups: int) -> list[int]:
    """First channel of each color's group, whose four first channels are s, -s, c and -c."""
    return [color * (channels // groups) for color in range(_COLORS)]


def _carry(layer: nn.Conv2d, groups: int, line: torch.Tensor | None = None) -> None:
    """Make a convolution keep the colors: filtered by `line` in both directions; None: of one pixel."""
    kernel = torch.ones(1, 1) if line is None else line[:, None] * line
    sources, targets = _places(layer.in_channels, groups), _places(layer.out_channels, groups)
    for source, target in zip(sources, targets, strict=True):
        _clear(layer, target)
        for sign in range(2):
            layer.weight[target + sign, source + sign] = kernel


def _enter(layer: nn.Conv2d, groups: int, shift: float) -> None:
    """Make the first convolution write each color plus `shift`, and its negative."""
    for color, target in enumerate(_places(layer.out_channels, groups)):
        _clear(layer, target)
        for row, sign in ((target, 1.0), (target + 1, -1.0)):
            layer.weight[row, color, 1, 1] = sign
            _bias(layer)[row] = sign * shift


def _leave(layer: nn.Conv2d, groups: int, shift: float) -> None:
    """Make the last convolution read each color, scaled as the norm before it scales, plus `shift`."""
    size = layer.in_channels // groups
    spread = _CONSTANT * (2 / size) ** 0.5
    for color, source in enumerate(_places(layer.in_channels, groups)):
        layer.weight[color] = 0.0
        layer.weight[color, source, 1, 1], layer.weight[color, source + 1, 1, 1] = spread, -spread
        _bias(layer)[color] = shift


def _clear(layer: nn.Conv2d, target: int) -> None:
    """Make a color's four channels zero but for the constants."""
    layer.weight[target : target + 4] = 0.0
    _bias(layer)[target : target + 4] = torch.tensor([0.0, 0.0, _CONSTANT, -_CONSTANT])


def _bias(layer: nn.Conv2d) -> torch.Tensor:
    if layer.bias is None:
        raise TypeError("The convolutions of an autoencoder have a bias.")
    return layer.bias
