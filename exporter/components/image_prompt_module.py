"""Torch modules that are traced for image prompts: the projection, and cross attention with further keys and values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from diffoundry.exporter.component import Component
from diffoundry.runtime.models.image_projection import (
    embeds_name,
    is_image_prompt_input,
    level_of_mask,
    mask_name,
    scale_name,
)

__all__ = ["ImagePrompts", "ProjectionModule"]


class ProjectionModule(nn.Module):
    """Calls a projection of diffusers with its only argument."""

    def __init__(self, network: nn.Module, _component: Component) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_embeds: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the tokens (batch, tokens, width)."""
        return (self.network(image_embeds),)


class ImagePrompts:
    """The image prompts of one call of a UNet, which all its cross attentions read.

    Attributes:
        names: Inputs of the component that belong to image prompts.
        tensors: Their values.
    """

    def __init__(self, network: nn.Module, component: Component) -> None:
        """Replace the attention of IP-Adapters, whose scales are numbers of Python, by one that takes tensors.

        Args:
            network: A UNet of diffusers with IP-Adapters.
            component: Its declaration.
        """
        from diffoundry.exporter.components.image_prompts import cross_attention_layers

        self.names = tuple(spec.name for spec in component.inputs if is_image_prompt_input(spec.name))
        self.tensors: dict[str, torch.Tensor] = {}
        if not self.names:
            return
        unet: Any = network
        unet.encoder_hid_proj = None  # the projection is a component of its own
        for number, layer in enumerate(cross_attention_layers(unet.config)):
            attention = unet.get_submodule(layer.name)
            attention.set_processor(_ImagePromptAttention(attention.processor, self, number, layer.level))

    def take(self, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Keep the inputs that belong to image prompts, and return the others."""
        given = dict(zip(names, tensors, strict=True))
        self.tensors = {name: given.pop(name) for name in self.names}
        return given

    @property
    def count(self) -> int:
        """Number of IP-Adapters."""
        return sum(level_of_mask(name) is None for name in self.names) // 2


class _ImagePromptAttention(nn.Module):
    """Cross attention to the text, and to every image prompt: Ye et al. 2023, equation 5.

    diffusers: `IPAdapterAttnProcessor2_0`. Each prompt has its own softmax, its scale, and its mask.
    """

    def __init__(self, processor: Any, prompts: ImagePrompts, number: int, level: int) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = processor.to_k_ip, processor.to_v_ip
        self._prompts, self._number, self._level = prompts, number, level

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, *_args: Any, **_options: Any
    ) -> torch.Tensor:
        """Attend; (batch, queries, width) in and out."""
        text = attn.norm_encoder_hidden_states(encoder_hidden_states) if attn.norm_cross else encoder_hidden_states
        query = _heads(attn.to_q(hidden_states), attn.heads)
        result = _attend(query, _heads(attn.to_k(text), attn.heads), _heads(attn.to_v(text), attn.heads))
        for index in range(self._prompts.count):
            result = result + self._attend_image(attn, query, index)
        attended: torch.Tensor = attn.to_out[1](attn.to_out[0](result))
        return attended

    def _attend_image(self, attn: Any, query: torch.Tensor, index: int) -> torch.Tensor:
        """Attend to the prompts of one adapter, and weight them: (batch, queries, width)."""
        tensors = self._prompts.tensors
        embeds, mask = tensors[embeds_name(index)], tensors[mask_name(index, self._level)]
        batch, prompts = embeds.shape[:2]
        key, value = (
            _heads(project[index](embeds).flatten(0, 1), attn.heads) for project in (self.to_k_ip, self.to_v_ip)
        )
        repeated = query.unsqueeze(1).expand(-1, prompts, -1, -1, -1).flatten(0, 1)
        each = _split(_attend(repeated, key, value), 0, (batch, prompts))
        weights = mask.flatten(2) * tensors[scale_name(index)][:, self._number].unsqueeze(-1)
        summed: torch.Tensor = (each * weights.unsqueeze(-1)).sum(dim=1)
        return summed


def _heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """(batch, tokens, width) to (batch, heads, tokens, width of a head)."""
    return _split(tensor, -1, (heads, -1)).transpose(1, 2)


def _split(tensor: torch.Tensor, axis: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """Split an axis in two; torch's own method has no types."""
    parts: Any = tensor
    result: torch.Tensor = parts.unflatten(axis, sizes)
    return result


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Heads in, (batch, queries, width) out."""
    attended = nn.functional.scaled_dot_product_attention(query, key, value)
    return attended.transpose(1, 2).flatten(2)
