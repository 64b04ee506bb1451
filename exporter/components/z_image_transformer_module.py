"""ZImageTransformer2DModel as a traceable module: tensors instead of lists, real numbers instead of complex ones."""

import math
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers.models.transformers.transformer_z_image import ZSingleStreamAttnProcessor
from torch.nn import functional

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.runtime.models.z_image_transformer_2d import (
    PATCH_KEY,
    PENDING,
    pack_latents,
    padded_captions,
    position_feeds,
    read_layout,
)

__all__ = ["ZImageModule"]

_PERIOD = 10000
"""Longest wavelength of times. diffusers: `TimestepEmbedder.timestep_embedding`."""

_HIDDEN = -1e4
"""Added to the scores of hidden tokens. exp(-1e4) is 0 in every float type."""

Angles = tuple[torch.Tensor, torch.Tensor]


class ZImageModule(NetworkModule):
    """Predicts the negative velocity of tokens. diffusers: `ZImageTransformer2DModel.forward`.

    diffusers pads a caption and an image to multiples of 32 tokens with learned ones, and the rows of a batch to the
    longest. Here a caption comes with masks. 31 tokens of padding follow those of every image, and a mask hides what is
    beyond the multiple. Cosines and sines of the positions are inputs, one number for the pair that it rotates.
    """

    def __init__(self, network: Any, component: Component) -> None:
        super().__init__(network, component)
        half = network.t_embedder.frequency_embedding_size // 2
        # As diffusers computes them, to the bit.
        exponent = -math.log(_PERIOD) * torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", torch.exp(exponent), persistent=False)

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: tokens in rows and columns, padded captions, and positions."""
        tokens = pack_latents(torch.stack(list(passed["x"]))[:, :, 0].detach().float().numpy())
        captions = padded_captions([caption.detach().float().numpy() for caption in passed["cap_feats"]])
        layout = read_layout(dict(network.config), "the network")
        _, rows, columns, _ = tokens.shape
        places = position_feeds(captions["encoder_attention_mask"], rows, columns, layout)
        arrays = {"hidden_states": tokens, **captions, **places}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG004
        """See `NetworkModule.graph_outputs`: tokens in rows and columns."""
        return {name: pack_latents(array[:, :, 0]) for name, array in outputs.items()}

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        with mock.patch.object(ZSingleStreamAttnProcessor, "__call__", _attend):
            return {"out_hidden_states": self._predict(**keywords)}

    def _predict(
        self,
        hidden_states: torch.Tensor,
        t: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        encoder_token_mask: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        text_rotary_cos: torch.Tensor,
        text_rotary_sin: torch.Tensor,
        padding_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        time = self._embed_time(t)
        tokens = network.all_x_embedder[PATCH_KEY](hidden_states.flatten(1, 2))
        count = tokens.shape[1]
        padding = network.x_pad_token.expand(tokens.shape[0], PENDING, -1)
        image = torch.cat([tokens, padding], dim=1)
        image_angles = _with_padding(rotary_cos.flatten(1, 2), 1.0), _with_padding(rotary_sin.flatten(1, 2), 0.0)
        seen = torch.cat([torch.ones_like(tokens[:, :, 0]), padding_mask.expand(tokens.shape[0], -1)], dim=1)
        for block in network.noise_refiner:
            image = block(image, _scores(seen), image_angles, time)
        own = encoder_token_mask[:, :, None]
        caption = network.cap_embedder(encoder_hidden_states) * own + network.cap_pad_token * (1.0 - own)
        angles = text_rotary_cos[None], text_rotary_sin[None]
        for block in network.context_refiner:
            caption = block(caption, _scores(encoder_attention_mask), angles)
        states = torch.cat([image, caption], dim=1)
        rows = states.shape[0]
        joined = tuple(
            torch.cat([one, other.expand(rows, -1, -1)], dim=1) for one, other in zip(image_angles, angles, strict=True)
        )
        mask = _scores(torch.cat([seen, encoder_attention_mask], dim=1))
        for block in network.layers:
            states = block(states, mask, joined, time)
        velocity: torch.Tensor = network.all_final_layer[PATCH_KEY](states[:, :count], c=time)
        return velocity.reshape(rows, *place, -1)

    def _embed_time(self, t: torch.Tensor) -> torch.Tensor:
        """Embed times (1,) between 0 and 1. diffusers: `TimestepEmbedder`."""
        network: Any = self.model
        frequencies: Any = self.frequencies
        angles = (t * network.t_scale)[:, None] * frequencies[None]
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        embedded: torch.Tensor = network.t_embedder.mlp(waves)
        return embedded


def _with_padding(table: torch.Tensor, value: float) -> torch.Tensor:
    """Append tokens of padding at position zero, whose rotation is none, to a table (B, tokens, D)."""
    rest = torch.full_like(table[:, :1], value).expand(-1, PENDING, -1)
    return torch.cat([table, rest], dim=1)


def _scores(seen: torch.Tensor) -> torch.Tensor:
    """Return what is added to scores, (B, 1, 1, tokens), for a mask (B, tokens)."""
    return ((1.0 - seen) * _HIDDEN)[:, None, None, :]


def _attend(
    _self: Any,
    attn: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor | None = None,  # noqa: ARG001
    attention_mask: torch.Tensor | None = None,
    freqs_cis: Any = None,
) -> torch.Tensor:
    """Compute `ZSingleStreamAttnProcessor.__call__`; `freqs_cis` are cosines and sines (B, tokens, head / 2)."""
    layers: tuple[Any, ...] = (attn.to_q, attn.to_k, attn.to_v)
    query, key, value = (layer(hidden_states).unflatten(-1, (attn.heads, -1)) for layer in layers)
    query = query if attn.norm_q is None else attn.norm_q(query)
    key = key if attn.norm_k is None else attn.norm_k(key)
    query, key, value = (one.transpose(1, 2) for one in (_rotate(query, freqs_cis), _rotate(key, freqs_cis), value))
    result = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
    output: torch.Tensor = attn.to_out[0](result.transpose(1, 2).flatten(2, 3))
    return output


def _rotate(states: torch.Tensor, angles: Angles) -> torch.Tensor:
    """Rotate pairs of numbers of states (B, tokens, heads, D), as a product of complex numbers does."""
    cos, sin = (table.repeat_interleave(2, dim=-1)[:, :, None] for table in angles)
    first, second = states.reshape(*states.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([-second, first], dim=-1).flatten(3)
    return states * cos + turned * sin
