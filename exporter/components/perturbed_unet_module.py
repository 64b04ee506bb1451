"""Self-attention of a traced UNet, in some rows of some layers each token's own value.

Ahn et al. 2024, https://arxiv.org/abs/2403.17377.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import PAGCFGIdentitySelfAttnProcessor2_0, PAGIdentitySelfAttnProcessor2_0
from torch.nn.functional import scaled_dot_product_attention

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.attention_processor import AttentionProcessor
from diffoundry.exporter.components.perturbed_layers import perturbed_input
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS
from diffoundry.runtime.models.perturbed_unet import self_attentions

__all__ = ["PerturbedAttention", "perturbed_rows"]

_PARTS = {PAGCFGIdentitySelfAttnProcessor2_0: 3, PAGIdentitySelfAttnProcessor2_0: 2}
"""See `perturbed_input`."""


class PerturbedAttention:
    """The layers that are perturbed in one call of a UNet, which all its self-attentions read."""

    def __init__(self, network: torch.nn.Module, component: Component) -> None:
        """Replace the self-attentions of a network whose component has the input `IDENTITY_LAYERS`.

        Args:
            network: A UNet of diffusers.
            component: Its declaration.
        """
        self.layers: torch.Tensor | None = None
        if not any(spec.name == IDENTITY_LAYERS for spec in component.inputs):
            return
        unet: Any = network
        for index, name in enumerate(self_attentions(unet.config, component.name)):
            unet.get_submodule(name).set_processor(_SelfAttention(self, index))

    def take(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """Keep the layers of a call, and return the other keywords of the network."""
        self.layers = keywords.pop(IDENTITY_LAYERS, None)
        return keywords


class _SelfAttention(AttentionProcessor):
    """Mixes before the last projection, which both results then share."""

    def __init__(self, call: PerturbedAttention, index: int) -> None:
        self._call, self._index = call, index

    def attend(self, attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """See `AttentionProcessor.attend`."""
        assert self._call.layers is not None, "the component has the input"
        share = self._call.layers[:, self._index, None, None, None]
        return scaled_dot_product_attention(query, key, value, scale=attn.scale) * (1.0 - share) + value * share


def perturbed_rows(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the layers that a pipeline of diffusers perturbs in its last rows, as an input; none where it does not.

    Args:
        network: A UNet, with the processors of the call.
        passed: Arguments of its `forward`.
    """
    if not any(type(processor) in _PARTS for processor in network.attn_processors.values()):
        return {}
    names = self_attentions(network.config, "unet")
    blocks = [network.get_submodule(name.removesuffix(".attn1")) for name in names]
    return perturbed_input(blocks, len(passed["sample"]), _PARTS)
