"""Torch module that is traced for a depth estimator, with weights that do not depend on the image computed once."""

import copy

import torch
from torch.nn import functional
from transformers import DPTForDepthEstimation
from transformers.models.bit.modeling_bit import WeightStandardizedConv2d
from transformers.models.dpt.modeling_dpt import DPTViTEmbeddings, DPTViTHybridEmbeddings

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.network_module import NetworkModule

__all__ = ["DepthEstimatorModule"]


class DepthEstimatorModule(NetworkModule):
    """Computes transformers' `DPTForDepthEstimation.forward` for images of the trained size.

    The convolutions of a BiT backbone standardize their kernels, and the position embeddings are resized, at every call
    of the network. Both are constants of the graph here. The module itself is not changed.
    """

    def __init__(self, network: DPTForDepthEstimation, component: Component) -> None:
        own = copy.deepcopy(network, {id(tensor): tensor for tensor in network.parameters()})
        for path, layer in list(own.named_modules()):
            if isinstance(layer, WeightStandardizedConv2d):
                parent, _, name = path.rpartition(".")
                setattr(own.get_submodule(parent), name, _plain_convolution(layer))
            elif isinstance(layer, DPTViTEmbeddings | DPTViTHybridEmbeddings):
                layer._resize_pos_embed = _keep_positions  # noqa: SLF001  # transformers calls it so
        super().__init__(own, component)


def _plain_convolution(layer: WeightStandardizedConv2d) -> torch.nn.Module:
    """Return a convolution with the standardized kernel; transformers: `WeightStandardizedConv2d.forward`."""
    flat = layer.weight.reshape(1, layer.out_channels, -1)
    kernel = functional.batch_norm(flat, None, None, training=True, momentum=0.0, eps=layer.eps).reshape_as(
        layer.weight
    )
    plain = torch.nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=layer.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = torch.nn.Parameter(kernel.detach(), requires_grad=False), layer.bias
    return plain if layer.pad is None else torch.nn.Sequential(layer.pad, plain)


def _keep_positions(embeddings: torch.Tensor, _height: int, _width: int) -> torch.Tensor:
    """Return position embeddings as they are: images have the trained size."""
    return embeddings
