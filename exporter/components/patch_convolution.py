"""Patches of a sample by one strided convolution."""

import torch

__all__ = ["patch_convolution"]


def patch_convolution(flat: torch.nn.Conv2d, channels: int, patch: int) -> torch.nn.Conv2d:
    """Return the convolution that gives what `flat` gives after `PixelUnshuffle`.

    Core ML takes no tensor of the six axes that moving patches into channels needs.

    Args:
        flat: 1 x 1 convolution of all numbers of a patch.
        channels: Channels of the sample.
        patch: Side of a patch.
    """
    strided = torch.nn.Conv2d(channels, flat.out_channels, patch, stride=patch)
    # A copy: a weight of another shape shall not have the name of the checkpoint's.
    strided.weight = torch.nn.Parameter(flat.weight.detach().clone().view(strided.weight.shape), requires_grad=False)
    strided.bias = flat.bias
    return strided
