"""Torch module that is traced for a UNet: it takes features of T2I-Adapters, image prompts, and perturbed layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.adapter_features import FEATURE_KEYWORD
from diffoundry.exporter.components.image_prompt_module import ImagePrompts
from diffoundry.exporter.components.perturbed_unet_module import PerturbedAttention, perturbed_rows
from diffoundry.exporter.components.unet_module import UNetModule

__all__ = ["AdaptedUNet"]


class AdaptedUNet(UNetModule):
    """Calls the UNet with its features in a list, from which diffusers takes them one by one."""

    def __init__(self, network: torch.nn.Module, component: Component) -> None:
        super().__init__(network, component)
        self.prompts = ImagePrompts(network, component)
        self.perturbed = PerturbedAttention(network, component)
        self.names = self.inputs
        self.inputs = tuple(name for name in self.names if name not in self.prompts.names)

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: perturbed layers."""
        return perturbed_rows(network, passed)

    def keywords(self, tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
        """See `NetworkModule.keywords`; image prompts and perturbed layers reach the attention by another way."""
        keywords = self.perturbed.take(super().keywords(tuple(self.prompts.take(self.names, tensors).values())))
        if FEATURE_KEYWORD in keywords:
            keywords[FEATURE_KEYWORD] = list(keywords[FEATURE_KEYWORD])
        return keywords
