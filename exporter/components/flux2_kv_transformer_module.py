"""Flux2Transformer2DModel with reference tokens that see themselves alone, as a traceable module."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb

from diffoundry.exporter.components.flux2_transformer_module import Flux2Module

__all__ = ["Flux2KVModule"]

_HIDDEN = -1e4
"""Added to the scores of a hidden token. exp(-1e4) is 0 in every float type."""

_Angles = tuple[torch.Tensor, torch.Tensor]
_Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Query, key and value, (B, tokens, heads, width)."""


class Flux2KVModule(Flux2Module):
    """Predicts the velocity of tokens. diffusers: `Flux2Transformer2DModel.forward` with `kv_cache_mode="extract"`.

    Reference tokens attend to themselves alone, and are modulated as at timestep 0. Their keys and values are so the
    same in every step, and diffusers computes them in the first. Here every step computes them: there is no cache, and
    the numbers are the same.
    """

    def _predict(  # type: ignore[override]  # the inputs of another network
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        reference_hidden_states: torch.Tensor,
        **tables: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        own = network.x_embedder(hidden_states.flatten(1, 2))
        other = network.x_embedder(reference_hidden_states)
        text = network.context_embedder(encoder_hidden_states)
        embedded, fixed = self.embed(timestep, None), self.embed(timestep * 0, None)
        angles = [_angles(tables, name) for name in ("text", "rotary", "reference")]
        image, still = network.double_stream_modulation_img(embedded), network.double_stream_modulation_img(fixed)
        written = network.double_stream_modulation_txt(embedded)
        for block in network.transformer_blocks:
            text, own, other = _double(block, (text, own, other), (written, image, still), angles)
        count = text.shape[1]
        states = torch.cat([text, own], dim=1)
        joined = [tuple(torch.cat(pair) for pair in zip(*angles[:2], strict=True)), angles[2]]
        moving, still = network.single_stream_modulation(embedded), network.single_stream_modulation(fixed)
        for block in network.single_transformer_blocks:
            states, other = _single(block, (states, other), (moving, still), joined)
        velocity: torch.Tensor = network.proj_out(network.norm_out(states[:, count:], embedded))
        return velocity.reshape(velocity.shape[0], *place, -1)


def _angles(tables: dict[str, torch.Tensor], name: str) -> _Angles:
    """Return cosines and sines (tokens, D) of some tokens, with two equal numbers for a pair."""
    cos, sin = (tables[f"{name}_{table}"].repeat_interleave(2, dim=-1) for table in ("cos", "sin"))
    return (cos, sin) if cos.ndim == 2 else (cos.flatten(0, 1), sin.flatten(0, 1))


def _double(
    block: Any, states: Sequence[torch.Tensor], modulations: Sequence[torch.Tensor], angles: Sequence[Any]
) -> list[torch.Tensor]:
    """Run a block with two streams over tokens of text, of the image and of references.

    diffusers: `Flux2TransformerBlock.forward`, `Flux2KVAttnProcessor`.
    """
    attention = block.attn
    added = [getattr(attention, f"add_{name}_proj") for name in "qkv"]
    projected = [getattr(attention, f"to_{name}") for name in "qkv"]
    streams = (
        (block.norm1_context, added, (attention.norm_added_q, attention.norm_added_k)),
        *((block.norm1, projected, (attention.norm_q, attention.norm_k)),) * 2,
    )
    split = [_split(one, 2) for one in modulations]
    heads = []
    for one, (norm, layers, norms), (first, _), table in zip(states, streams, split, angles, strict=True):
        tokens = _modulate(norm(one), first)
        heads.append(
            _rotate(tuple(layer(tokens).unflatten(-1, (-1, attention.head_dim)) for layer in layers), norms, table)
        )
    text, seen = _attend(heads[0], heads[1], heads[2])
    outs = attention.to_add_out(text), *(attention.to_out[0](one) for one in (seen, _attend_apart(heads[2], heads[1])))
    ends = (block.norm2_context, block.ff_context), *((block.norm2, block.ff),) * 2
    results = []
    for one, out, (norm, feed_forward), (first, second) in zip(states, outs, ends, split, strict=True):
        attended = one + first[2] * out
        results.append(attended + second[2] * feed_forward(_modulate(norm(attended), second)))
    return results


def _single(
    block: Any, states: Sequence[torch.Tensor], modulations: Sequence[torch.Tensor], angles: Sequence[Any]
) -> list[torch.Tensor]:
    """Run a block with one stream over tokens of text and image, and of references.

    diffusers: `Flux2SingleTransformerBlock.forward`, `Flux2KVParallelSelfAttnProcessor`.
    """
    attention = block.attn
    width = 3 * attention.inner_dim
    split = [_split(one, 1)[0] for one in modulations]
    heads, rest = [], []
    for one, modulation, table in zip(states, split, angles, strict=True):
        joined = attention.to_qkv_mlp_proj(_modulate(block.norm(one), modulation))
        parts = [part.unflatten(-1, (-1, attention.head_dim)) for part in joined[..., :width].chunk(3, dim=-1)]
        heads.append(_rotate(tuple(parts), (attention.norm_q, attention.norm_k), table))
        rest.append(attention.mlp_act_fn(joined[..., width:]))
    key, value = (torch.cat([heads[0][index], heads[1][index]], dim=1) for index in (1, 2))
    attended = _attention(heads[0][0], key, value), _attend_apart(heads[1], heads[0])
    return [
        one + modulation[2] * attention.to_out(torch.cat(pair, dim=-1))
        for one, modulation, pair in zip(states, split, zip(attended, rest, strict=True), strict=True)
    ]


def _split(modulation: torch.Tensor, sets: int) -> list[tuple[torch.Tensor, ...]]:
    """Return shift, scale and gate, (B, 1, C), of each set. diffusers: `Flux2Modulation.split`."""
    parts = modulation[:, None].chunk(3 * sets, dim=-1)
    return [parts[3 * index : 3 * index + 3] for index in range(sets)]


def _modulate(tokens: torch.Tensor, modulation: Sequence[torch.Tensor]) -> torch.Tensor:
    shift, scale, _ = modulation
    return tokens * (1 + scale) + shift


def _rotate(heads: Any, norms: Sequence[Any], table: _Angles) -> _Heads:
    """Normalize and rotate query and key."""
    query, key = (
        apply_rotary_emb(norm(part), table, sequence_dim=1) for norm, part in zip(norms, heads[:2], strict=True)
    )
    return query, key, heads[2]


def _attend(text: _Heads, own: _Heads, other: _Heads) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what tokens of text and image see of all tokens, (B, tokens, C) each."""
    query = torch.cat([text[0], own[0]], dim=1)
    key, value = (torch.cat([text[index], other[index], own[index]], dim=1) for index in (1, 2))
    seen = _attention(query, key, value)
    count = text[0].shape[1]
    return seen[:, :count], seen[:, count:]


def _attend_apart(other: _Heads, filler: _Heads) -> torch.Tensor:
    """Return what reference tokens see of themselves.

    Engines run no attention over no tokens, so a token of `filler` is put after them, which no other sees.
    """
    count = other[0].shape[1]
    query, key, value = (torch.cat([own, more[:, :1]], dim=1) for own, more in zip(other, filler, strict=True))
    hidden = torch.cat([torch.zeros(count), torch.full((1,), _HIDDEN)])
    return _attention(query, key, value, hidden[None, None, None])[:, :count]


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return attention over heads (B, tokens, heads, width), joined to (B, tokens, C)."""
    joined: torch.Tensor = dispatch_attention_fn(query, key, value, attn_mask=mask).flatten(2, 3)
    return joined
