"""Lumina2Transformer2DModel as a traceable module: masks instead of lists, real numbers instead of complex ones."""

from collections.abc import Mapping
from typing import Any
from unittest import mock

import torch
from diffusers.models.transformers.transformer_lumina2 import Lumina2AttnProcessor2_0
from torch.nn import functional

from diffoundry.exporter.components.rotate_pairs import Angles, pair_tables, rotate_pairs
from diffoundry.exporter.components.transformer_module import TransformerModule
from diffoundry.runtime.models.lumina2_transformer_2d import position_feeds, read_layout

__all__ = ["Lumina2Module"]

_HIDDEN = -1e4
"""Added to the scores of padding. exp(-1e4) is 0 in every float type."""


class Lumina2Module(TransformerModule):
    """Predicts the negative velocity. diffusers: `Lumina2Transformer2DModel.forward`.

    diffusers joins the tokens of each prompt without its padding to those of the image, and pads rows to the longest.
    Here padding stays between the two, and a mask hides it. Cosines and sines of the positions are inputs, one number
    for the pair that it rotates. The timestep is embedded once for all rows of the batch.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: positions, and the mask as floats."""
        mask = passed["encoder_attention_mask"].float()
        layout = read_layout(dict(network.config), "the network")
        rows, columns = (side // layout.patch_size for side in passed["hidden_states"].shape[2:])
        places = position_feeds(mask.numpy(), rows, columns, layout)
        return {"encoder_attention_mask": mask, **{name: torch.from_numpy(table) for name, table in places.items()}}

    def _predict(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        text_rotary_cos: torch.Tensor,
        text_rotary_sin: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        time, text = network.time_caption_embed(hidden_states, timestep, encoder_hidden_states)
        states = network.x_embedder(_cut(hidden_states, network.config.patch_size))
        rows, tokens = text.shape[:2]
        angles = rotary_cos.flatten(1, 2), rotary_sin.flatten(1, 2)
        text_angles = text_rotary_cos.expand(rows, -1, -1), text_rotary_sin.expand(rows, -1, -1)
        hidden = ((1.0 - encoder_attention_mask) * _HIDDEN)[:, None, None, :]
        with mock.patch.object(Lumina2AttnProcessor2_0, "__call__", _attend):
            for layer in network.context_refiner:
                text = layer(text, hidden, text_angles)
            for layer in network.noise_refiner:
                states = layer(states, None, angles, time)
            seen = torch.zeros_like(states[:, None, None, :, 0])
            hidden, states = torch.cat([hidden, seen], dim=-1), torch.cat([text, states], dim=1)
            joined = tuple(torch.cat(pair, dim=1) for pair in zip(text_angles, angles, strict=True))
            for layer in network.layers:
                states = layer(states, hidden, joined, time)
        patches = network.norm_out(states[:, tokens:], time)
        return _join(patches, network.config.patch_size, hidden_states.shape)


def _cut(latents: torch.Tensor, patch: int) -> torch.Tensor:
    """Cut latents (B, C, h, w) into patches, (B, h / patch * w / patch, patch * patch * C)."""
    batch, channels, height, width = latents.shape
    cut = latents.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def _join(patches: torch.Tensor, patch: int, shape: torch.Size) -> torch.Tensor:
    """Revert `_cut` for latents of a shape."""
    batch, _, height, width = shape
    cut = patches.reshape(batch, height // patch, width // patch, patch, patch, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, width)


def _attend(
    _processor: Any,
    attention: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    image_rotary_emb: Angles,
) -> torch.Tensor:
    """Attend to tokens, of which several heads share keys and values. diffusers: `Lumina2AttnProcessor2_0`.

    Args:
        attention: The layer.
        hidden_states: (B, tokens, width).
        encoder_hidden_states: The same.
        attention_mask: Added to scores, (B, 1, 1, tokens).
        image_rotary_emb: Cosines and sines (B, tokens, half a head).
    """
    head = attention.to_q.out_features // attention.heads
    query, key, value = (
        layer(states).unflatten(-1, (-1, head))
        for layer, states in (
            (attention.to_q, hidden_states),
            (attention.to_k, encoder_hidden_states),
            (attention.to_v, encoder_hidden_states),
        )
    )
    tables = pair_tables(*image_rotary_emb)
    query, key = rotate_pairs(attention.norm_q(query), tables), rotate_pairs(attention.norm_k(key), tables)
    copies = attention.heads // key.shape[2]
    key, value = (one.repeat_interleave(copies, dim=2) for one in (key, value))
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    result = functional.scaled_dot_product_attention(query, key, value, attention_mask, scale=attention.scale)
    projected: torch.Tensor = attention.to_out[0](result.transpose(1, 2).flatten(2))
    return projected
