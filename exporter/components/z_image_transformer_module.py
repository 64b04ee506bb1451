"""ZImageTransformer2DModel as a traceable module: tensors instead of lists, real numbers instead of complex ones."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from diffusers.models.transformers.transformer_z_image import ZSingleStreamAttnProcessor
from torch.nn import functional

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.exporter.components.rotate_pairs import Angles, pair_tables, rotate_pairs
from diffoundry.runtime.models.protocols import FloatArray
from diffoundry.runtime.models.z_image_controlnet import residual_names, split_residual
from diffoundry.runtime.models.z_image_transformer_2d import (
    PATCH,
    PATCH_KEY,
    PENDING,
    TOKEN_MULTIPLE,
    pack_latents,
    padded_captions,
    position_feeds,
)

__all__ = ["Tokens", "ZImageModule", "attend", "join_tokens", "pad_image", "patch_tokens", "residual_arrays"]

_PERIOD = 10000
"""Longest wavelength of times. diffusers: `TimestepEmbedder.timestep_embedding`."""

_HIDDEN = -1e4
"""Added to the scores of hidden tokens. exp(-1e4) is 0 in every float type."""


class Tokens(NamedTuple):
    """A sequence: states (B, tokens, D), a mask (B, tokens) of what is seen, cosines and sines of the positions."""

    states: torch.Tensor
    seen: torch.Tensor
    angles: Angles

    @property
    def scores(self) -> torch.Tensor:
        """Numbers that are added to scores of attention, (B, 1, 1, tokens)."""
        return ((1.0 - self.seen) * _HIDDEN)[:, None, None, :]


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
        tokens = patch_tokens(passed["x"])
        captions = _captions(passed)
        rotary, seen = network.rope_embedder, captions["encoder_attention_mask"]
        rows, columns = tokens.shape[1:3]
        places = position_feeds(seen, rows, columns, rotary.axes_dims, rotary.theta)
        residuals = residual_arrays(passed, passed.get("controlnet_block_samples") or {})
        arrays = {"hidden_states": tokens, **captions, **places, **residuals}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG004
        """See `NetworkModule.graph_outputs`: tokens in rows and columns."""
        return {name: pack_latents(array[:, :, 0]) for name, array in outputs.items()}

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        with mock.patch.object(ZSingleStreamAttnProcessor, "__call__", attend):
            return self._embed(**keywords)

    def _embed(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        encoder_token_mask: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        text_rotary_cos: torch.Tensor,
        text_rotary_sin: torch.Tensor,
        padding_mask: torch.Tensor,
        **others: torch.Tensor,
    ) -> Any:
        """Embed tokens and compute the rest; arguments as the component's inputs."""
        network: Any = self.model
        states = network.all_x_embedder[PATCH_KEY](hidden_states.flatten(1, 2))
        image = Tokens(
            pad_image(states, network.x_pad_token),
            torch.cat([torch.ones_like(states[:, :, 0]), padding_mask.expand(states.shape[0], -1)], dim=1),
            (_with_padding(rotary_cos.flatten(1, 2), 1.0), _with_padding(rotary_sin.flatten(1, 2), 0.0)),
        )
        own = encoder_token_mask[:, :, None]
        embedded = network.cap_embedder(encoder_hidden_states) * own + network.cap_pad_token * (1.0 - own)
        caption = Tokens(embedded, encoder_attention_mask, (text_rotary_cos[None], text_rotary_sin[None]))
        return self.compute(hidden_states.shape[1:3], image, caption, **others)

    def compute(
        self, place: tuple[int, ...], image: Tokens, caption: Tokens, t: torch.Tensor, **residuals: torch.Tensor
    ) -> Any:
        """Compute the outputs of embedded tokens.

        Args:
            place: Rows and columns of tokens of the image.
            image: Its tokens and their padding.
            caption: Its tokens.
            t: Time (1,).
            residuals: Of a ControlNet.
        """
        network: Any = self.model
        time = self.embed_time(t)
        states = image.states
        for block in network.noise_refiner:
            states = block(states, image.scores, image.angles, time)
        joined = join_tokens(image._replace(states=states), self.refine_caption(caption))
        states = joined.states
        for index, block in enumerate(network.layers):
            states = block(states, joined.scores, joined.angles, time)
            parts = [residuals[name] for name in residual_names(index) if name in residuals]
            if parts:
                states = states + torch.cat([parts[0].flatten(1, 2), *parts[1:]], dim=1)
        velocity = network.all_final_layer[PATCH_KEY](states[:, : place[0] * place[1]], c=time)
        return {self.outputs[0]: velocity.reshape(states.shape[0], *place, -1)}

    def refine_caption(self, caption: Tokens) -> Tokens:
        """Run the blocks that see the caption alone."""
        network: Any = self.model
        states = caption.states
        for block in network.context_refiner:
            states = block(states, caption.scores, caption.angles)
        return caption._replace(states=states)

    def embed_time(self, t: torch.Tensor) -> torch.Tensor:
        """Embed times (1,) between 0 and 1. diffusers: `TimestepEmbedder`."""
        network: Any = self.model
        frequencies: Any = self.frequencies
        angles = (t * network.t_scale)[:, None] * frequencies[None]
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        embedded: torch.Tensor = network.t_embedder.mlp(waves)
        return embedded


def pad_image(states: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Append tokens of padding to those of an image, (B, tokens, D)."""
    return torch.cat([states, token.expand(states.shape[0], PENDING, -1)], dim=1)


def join_tokens(image: Tokens, caption: Tokens) -> Tokens:
    """Return the tokens of an image and then of its caption."""
    rows = caption.states.shape[0]
    cos, sin = (
        torch.cat([one, other.expand(rows, -1, -1)], dim=1)
        for one, other in zip(image.angles, caption.angles, strict=True)
    )
    states = torch.cat([image.states, caption.states], dim=1)
    return Tokens(states, torch.cat([image.seen, caption.seen], dim=1), (cos, sin))


def patch_tokens(images: Any) -> FloatArray:
    """Return the tokens of diffusers' latents, one (C, 1, h, w) for each row."""
    return pack_latents(torch.stack(list(images))[:, :, 0].detach().float().numpy())


def residual_arrays(passed: Mapping[str, Any], residuals: Mapping[int, Any]) -> dict[str, FloatArray]:
    """Return residuals of diffusers as inputs of the graph.

    Args:
        passed: Arguments of `forward` of the transformer or the ControlNet.
        residuals: Number of a block to its residual (B, tokens, D).
    """
    rows, columns = (side // PATCH for side in passed["x"][0].shape[-2:])
    padding = (np.arange(PENDING) < -rows * columns % TOKEN_MULTIPLE).astype(np.float32)
    seen = _captions(passed)["encoder_attention_mask"]
    cut = {
        place: split_residual(np.asarray(residual.detach().float()), rows, columns, padding, seen)
        for place, residual in residuals.items()
    }
    return {name: part for place, parts in cut.items() for name, part in zip(residual_names(place), parts, strict=True)}


def _captions(passed: Mapping[str, Any]) -> dict[str, FloatArray]:
    return padded_captions([caption.detach().float().numpy() for caption in passed["cap_feats"]])


def _with_padding(table: torch.Tensor, value: float) -> torch.Tensor:
    """Append tokens of padding at position zero, whose rotation is none, to a table (B, tokens, D)."""
    rest = torch.full_like(table[:, :1], value).expand(-1, PENDING, -1)
    return torch.cat([table, rest], dim=1)


def attend(
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
    tables = pair_tables(*freqs_cis)
    query, key = rotate_pairs(query, tables), rotate_pairs(key, tables)
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    result = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
    output: torch.Tensor = attn.to_out[0](result.transpose(1, 2).flatten(2, 3))
    return output
