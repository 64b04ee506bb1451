"""QwenImageTransformer2DModel as a traceable module, in real numbers, whose rotary positions are inputs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch.nn import functional

from diffoundry.exporter.components.transformer_module import TransformerModule
from diffoundry.runtime.models.controlnet import block_residual_name

__all__ = ["QwenImageModule", "Tables", "make_tables", "run_block"]

_HIDDEN = -10000.0
"""Added to the scores of padding. exp(-10000) is 0 in every float type."""


class Tables(NamedTuple):
    """Cosines and sines (tokens, head width) of text and image, and what is added to the scores of each key."""

    text: tuple[torch.Tensor, torch.Tensor]
    image: tuple[torch.Tensor, torch.Tensor]
    hidden: torch.Tensor


class QwenImageModule(TransformerModule):
    """Predicts the velocity of tokens. diffusers: `QwenImageTransformer2DModel.forward`.

    diffusers rotates complex numbers by angles that it computes of sizes. Here cosines and sines are inputs, one number
    for the pair that it rotates. Timesteps are embedded once for all rows.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: tokens in rows and columns, their angles, and a mask."""
        shapes, place, others = _split_shapes(passed)
        states, context = passed["hidden_states"], passed["encoder_hidden_states"]
        mask = passed.get("encoder_hidden_states_mask")
        image, text = network.pos_embed([shapes], max_txt_seq_len=context.shape[1], device=states.device)
        count = place[0] * place[1]
        cos, sin = image.real, image.imag
        feeds = {
            "hidden_states": states[:, :count].unflatten(1, place),
            "encoder_hidden_states_mask": torch.ones(context.shape[:2]) if mask is None else mask,
            "rotary_cos": cos[:count].unflatten(0, place),
            "rotary_sin": sin[:count].unflatten(0, place),
            "text_cos": text.real,
            "text_sin": text.imag,
        }
        residuals = passed.get("controlnet_block_samples") or ()
        feeds |= {block_residual_name(index): part.unflatten(1, place) for index, part in enumerate(residuals)}
        if not others:
            return feeds
        other = {"reference_cos": cos[count:], "reference_sin": sin[count:]}
        return {**feeds, "reference_hidden_states": states[:, count:], **other}

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        """See `NetworkModule.graph_outputs`: tokens in rows and columns."""
        _, (rows, columns), _ = _split_shapes(passed)
        own = {name: array[:, : rows * columns] for name, array in outputs.items()}
        return {name: array.reshape(len(array), rows, columns, -1) for name, array in own.items()}

    def _predict(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        text_cos: torch.Tensor,
        text_sin: torch.Tensor,
        **others: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        reference = {name: tensor for name, tensor in others.items() if name.startswith("reference")}
        tokens, cos, sin = hidden_states.flatten(1, 2), rotary_cos.flatten(0, 1), rotary_sin.flatten(0, 1)
        count = tokens.shape[1]
        if reference:
            tokens = torch.cat([tokens, reference["reference_hidden_states"]], dim=1)
            cos, sin = torch.cat([cos, reference["reference_cos"]]), torch.cat([sin, reference["reference_sin"]])
        tables = make_tables(encoder_hidden_states_mask, (text_cos, text_sin), (cos, sin))
        states = network.img_in(tokens)
        context = network.txt_in(network.txt_norm(encoder_hidden_states))
        # A network with `zero_cond_t` takes the tokens of other images for clean ones.
        times = torch.cat([timestep, timestep * 0.0]) if network.zero_cond_t else timestep
        layered = network.time_text_embed.use_additional_t_cond  # diffusers' pipeline of layers passes 0
        embedded = network.time_text_embed(times, states, torch.zeros(1, dtype=torch.int64) if layered else None)
        blocks = network.transformer_blocks
        residuals = [
            others[name].flatten(1, 2) for name in map(block_residual_name, range(len(blocks))) if name in others
        ]
        for index, block in enumerate(blocks):
            context, states = run_block(block, states, context, embedded, tables, count)
            if residuals:
                states = states + residuals[index // math.ceil(len(blocks) / len(residuals))]
        own = states[:, :count] if reference else states
        velocity: torch.Tensor = network.proj_out(network.norm_out(own, embedded[:1]))
        return velocity.reshape(velocity.shape[0], *place, -1)


def make_tables(
    mask: torch.Tensor, text: tuple[torch.Tensor, torch.Tensor], image: tuple[torch.Tensor, torch.Tensor]
) -> Tables:
    """Return what attention reads beside tokens.

    Args:
        mask: Of the text, (B, tokens).
        text: Cosines and sines of its tokens, one number for a pair.
        image: The same of the tokens of images.
    """
    hidden = functional.pad((1.0 - mask) * _HIDDEN, (0, image[0].shape[0]))
    return Tables(_pairs(*text), _pairs(*image), hidden[:, None, None, :])


def run_block(
    block: Any, states: torch.Tensor, context: torch.Tensor, embedded: torch.Tensor, tables: Tables, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a block of both streams. diffusers: `QwenImageTransformerBlock.forward`.

    Args:
        block: The block.
        states: Tokens of the images (B, n, D).
        context: Tokens of the text (B, m, D).
        embedded: The embedded timestep, and that of other images where it is another: (1 or 2, D).
        tables: Angles of positions, and the mask.
        count: Tokens of the result, which come first.
    """
    image_first, image_last = block.img_mod(embedded).chunk(2, dim=-1)
    text_first, text_last = block.txt_mod(embedded[:1]).chunk(2, dim=-1)
    image, image_gate = _modulate(block.img_norm1(states), image_first, count)
    text, text_gate = _modulate(block.txt_norm1(context), text_first, count)
    attended, attended_text = _attend(block.attn, image, text, tables)
    states = states + _gated(image_gate, attended, count)
    context = context + _gated(text_gate, attended_text, count)
    image, image_gate = _modulate(block.img_norm2(states), image_last, count)
    states = states + _gated(image_gate, block.img_mlp(image), count)
    text, text_gate = _modulate(block.txt_norm2(context), text_last, count)
    return context + _gated(text_gate, block.txt_mlp(text), count), states


def _modulate(states: torch.Tensor, numbers: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return modulated tokens, and the gate (1 or 2, 1, D) of what is made of them."""
    shift, scale, gate = numbers[:, None].chunk(3, dim=-1)
    if numbers.shape[0] == 1:
        return states * (1 + scale) + shift, gate
    parts = [
        part * (1 + scale[index : index + 1]) + shift[index : index + 1]
        for index, part in enumerate((states[:, :count], states[:, count:]))
    ]
    return torch.cat(parts, dim=1), gate


def _gated(gate: torch.Tensor, states: torch.Tensor, count: int) -> torch.Tensor:
    if gate.shape[0] == 1:
        return gate * states
    return torch.cat([gate[:1] * states[:, :count], gate[1:] * states[:, count:]], dim=1)


def _attend(attn: Any, image: torch.Tensor, text: torch.Tensor, tables: Tables) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from all tokens to all. diffusers: `QwenDoubleStreamAttnProcessor2_0`."""
    width = attn.inner_dim // attn.heads
    query, key, value = (layer(image).unflatten(-1, (attn.heads, width)) for layer in (attn.to_q, attn.to_k, attn.to_v))
    text_query, text_key, text_value = (
        layer(text).unflatten(-1, (attn.heads, width)) for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    queries = _join(_rotate(attn.norm_added_q(text_query), tables.text), _rotate(attn.norm_q(query), tables.image))
    keys = _join(_rotate(attn.norm_added_k(text_key), tables.text), _rotate(attn.norm_k(key), tables.image))
    attended = functional.scaled_dot_product_attention(queries, keys, _join(text_value, value), attn_mask=tables.hidden)
    joined = attended.transpose(1, 2).flatten(2, 3)
    count = text.shape[1]
    return attn.to_out[0](joined[:, count:]), attn.to_add_out(joined[:, :count])


def _rotate(heads: torch.Tensor, table: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate the pairs of heads (B, tokens, heads, width)."""
    rotated: torch.Tensor = apply_rotary_emb(heads, table, sequence_dim=1)
    return rotated


def _join(text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Put text before images, and heads before tokens."""
    return torch.cat([text, image], dim=1).transpose(1, 2)


def _pairs(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tables (tokens, head width), with two equal numbers for a pair."""
    return cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)


def _split_shapes(
    passed: Mapping[str, Any],
) -> tuple[Sequence[tuple[int, int, int]], tuple[int, int], Sequence[tuple[int, int, int]]]:
    """Return frames, rows and columns of all images; rows and columns of the result; and the shapes of other images.

    The layers of a result lie below one another, and all but the last image are layers.
    """
    found: Any = passed["img_shapes"][0]
    shapes = [found] if isinstance(found, tuple) else found
    count = 1 if passed.get("additional_t_cond") is None else len(shapes) - 1
    return shapes, (sum(rows for _, rows, _ in shapes[:count]), shapes[0][2]), shapes[count:]
