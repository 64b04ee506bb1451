"""SanaTransformer2DModel and SanaControlNetModel as traceable modules, whose positions are inputs."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import (
    PAGCFGSanaLinearAttnProcessor2_0,
    PAGIdentitySanaLinearAttnProcessor2_0,
)
from torch.nn import functional

from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.exporter.components.patch_positions import place_patches, position_tables
from diffoundry.runtime.models.controlnet import block_residual_name, is_residual
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS

__all__ = ["SanaControlNetModule", "SanaModule"]

_HIDDEN = -10000.0
"""Added to the scores of padding. diffusers: `SanaTransformer2DModel.forward`."""

_EPSILON = 1e-15
"""Added to divisors of linear attention. diffusers: `SanaLinearAttnProcessor2_0`."""


class _Start(NamedTuple):
    """The inputs of all blocks.

    Attributes:
        states: Patches of the latents, (B, patches, D).
        context: Tokens of the prompt, (B, tokens, D).
        hidden: Added to the scores of these tokens, (B, 1, 1, tokens).
        modulation: Of the timestep, (1, 6, D), for all rows.
        embedded: Embedding of the timestep, (1, D).
        sides: Height and width in patches.
    """

    states: torch.Tensor
    context: torch.Tensor
    hidden: torch.Tensor
    modulation: torch.Tensor
    embedded: torch.Tensor
    sides: tuple[Any, Any]


class SanaModule(NetworkModule):
    """Predicts the velocity. diffusers: `SanaTransformer2DModel.forward`.

    Timestep and guidance are embedded once for all rows. Residuals of a ControlNet have the sides of the image. Layers
    whose self-attention is perturbed are an input, so that a graph serves every choice.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: positions, perturbed layers, residuals with the image's sides."""
        latents, blocks = passed["hidden_states"], network.transformer_blocks
        sides = [side // network.config.patch_size for side in latents.shape[2:]]
        residuals = (passed.get("controlnet_block_samples") or ())[: len(blocks) - 1]
        identity = torch.stack([_identity_rows(block.attn1, len(latents)) for block in blocks], dim=1)
        return {
            **_positions(network, latents.shape[2:]),
            **({IDENTITY_LAYERS: identity} if identity.any() else {}),
            **{block_residual_name(i): part.unflatten(1, sides) for i, part in enumerate(residuals)},
        }

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        network: Any = self.model
        residuals = [keywords.pop(name).flatten(1, 2) for name in self.inputs if is_residual(name)]
        identity, sample = keywords.pop(IDENTITY_LAYERS, None), keywords.pop("hidden_states")
        start = _begin(network, sample, **keywords)
        states = start.states
        for index, block in enumerate(network.transformer_blocks):
            states = _run_block(block, states, start, None if identity is None else identity[:, index])
            if 0 < index <= len(residuals):
                states = states + residuals[index - 1]
        shift, scale = (network.scale_shift_table[None] + start.embedded[:, None]).chunk(2, dim=1)
        states = network.proj_out(network.norm_out.norm(states) * (1 + scale) + shift)
        return {"out_hidden_states": _join_patches(states, start.sides, network.config.patch_size)}


class SanaControlNetModule(NetworkModule):
    """Makes residuals of the latents of a control image. diffusers: `SanaControlNetModel.forward`."""

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: positions."""
        return _positions(network, passed["hidden_states"].shape[2:])

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        """See `NetworkModule.graph_outputs`: with the sides of the image."""
        rows, _, height, width = passed["hidden_states"].shape
        patches = next(iter(outputs.values())).shape[1]
        patch = isqrt(height * width // patches)
        return {name: array.reshape(rows, height // patch, width // patch, -1) for name, array in outputs.items()}

    def run(self, **keywords: Any) -> Any:
        """Call the network, and give its results the sides of the image."""
        network: Any = self.model
        condition, sample = keywords.pop("controlnet_cond"), keywords.pop("hidden_states")
        start = _begin(network, sample, **keywords)
        added = network.input_block(_patches(network, condition, keywords))
        states, results = start.states + added, {}
        for index, (block, linear) in enumerate(
            zip(network.transformer_blocks, network.controlnet_blocks, strict=True)
        ):
            states = _run_block(block, states, start, None)
            results[block_residual_name(index)] = linear(states).unflatten(1, start.sides)
        return results


def _identity_rows(attention: Any, rows: int) -> torch.Tensor:
    """Return 1 for the rows whose attention a pipeline of diffusers perturbs, (rows,): the last third, or half."""
    parts = {PAGCFGSanaLinearAttnProcessor2_0: 3, PAGIdentitySanaLinearAttnProcessor2_0: 2}
    perturbed = torch.zeros(rows)
    perturbed[rows - rows // parts.get(type(attention.processor), rows + 1) :] = 1.0
    return perturbed


def _positions(network: Any, sides: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the tables of positions for the sides of latents; none where a network has none."""
    embed = network.patch_embed
    return {} if embed.pos_embed is None else position_tables(embed, sides)


def _patches(network: Any, latents: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the patches of latents with their positions, (B, patches, D)."""
    features: torch.Tensor = network.patch_embed.proj(latents)
    tables = {name: inputs[name] for name in ("position_rows", "position_columns") if name in inputs}
    return place_patches(features, **tables) if tables else features.flatten(2).transpose(1, 2)


def _begin(
    network: Any,
    sample: torch.Tensor,
    *,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor,
    guidance: torch.Tensor | None = None,
    **positions: torch.Tensor,
) -> _Start:
    """Embed the inputs; arguments as the component's inputs."""
    patch = network.config.patch_size
    if guidance is None:
        modulation, embedded = network.time_embed(timestep, batch_size=1, hidden_dtype=sample.dtype)
    else:
        modulation, embedded = network.time_embed(timestep, guidance=guidance, hidden_dtype=sample.dtype)
    return _Start(
        states=_patches(network, sample, positions),
        context=network.caption_norm(network.caption_projection(encoder_hidden_states)),
        hidden=((1.0 - encoder_attention_mask) * _HIDDEN)[:, None, None, :],
        modulation=modulation.view(-1, 6, embedded.shape[-1]),  # of any rows, for a batch of timesteps
        embedded=embedded,
        sides=(sample.shape[2] // patch, sample.shape[3] // patch),
    )


def _run_block(block: Any, states: torch.Tensor, start: _Start, identity: torch.Tensor | None) -> torch.Tensor:
    """Run a block with one modulation for all rows. diffusers: `SanaTransformerBlock`."""
    numbers = (block.scale_shift_table[None] + start.modulation).chunk(6, dim=1)
    shift, scale, gate, last_shift, last_scale, last_gate = numbers
    states = states + gate * _attend_linearly(block.attn1, block.norm1(states) * (1 + scale) + shift, identity)
    states = states + _attend(block.attn2, states, start)
    features = (block.norm2(states) * (1 + last_scale) + last_shift).unflatten(1, start.sides).permute(0, 3, 1, 2)
    result: torch.Tensor = states + last_gate * block.ff(features).flatten(2, 3).permute(0, 2, 1)
    return result


def _attend_linearly(attention: Any, states: torch.Tensor, identity: torch.Tensor | None) -> torch.Tensor:
    """Attend to all patches in linear time. diffusers: `SanaLinearAttnProcessor2_0`.

    Args:
        attention: Its layers.
        states: (B, patches, D).
        identity: (B,), 1 for rows that see themselves alone, as `PAGCFGSanaLinearAttnProcessor2_0` perturbs them; None
            for none.
    """
    query, key, value = _project(attention, states, states)
    query, key = (functional.relu(_heads(part, attention.heads)) for part in (query, key))
    # A row of ones sums up the weights, by which the others are divided.
    values = functional.pad(_heads(value, attention.heads), (0, 0, 0, 1), value=1.0)
    sums = torch.matmul(torch.matmul(values, key.transpose(2, 3)), query)
    attended = (sums[:, :, :-1] / (sums[:, :, -1:] + _EPSILON)).flatten(1, 2).transpose(1, 2)
    if identity is not None:
        chosen = identity[:, None, None]
        attended = attended * (1.0 - chosen) + value * chosen
    result: torch.Tensor = attention.to_out[0](attended)
    return result


def _attend(attention: Any, states: torch.Tensor, start: _Start) -> torch.Tensor:
    """Attend to the prompt. diffusers: `SanaAttnProcessor2_0`."""
    query, key, value = (
        _heads(part, attention.heads).transpose(2, 3) for part in _project(attention, states, start.context)
    )
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=start.hidden)
    result: torch.Tensor = attention.to_out[0](attended.transpose(1, 2).flatten(2, 3))
    return result


def _project(attention: Any, states: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values, (B, tokens, D)."""
    query, key = attention.to_q(states), attention.to_k(context)
    if attention.norm_q is not None:
        query, key = attention.norm_q(query), attention.norm_k(key)
    return query, key, attention.to_v(context)


def _heads(part: Any, heads: int) -> Any:
    """Split (B, tokens, D) to (B, heads, D / heads, tokens)."""
    return part.transpose(1, 2).unflatten(1, (heads, -1))


def _join_patches(states: Any, sides: tuple[Any, Any], patch: int) -> Any:
    """Return latents (B, C, h, w) of patches (B, patches, C * patch * patch)."""
    latents = states.unflatten(1, sides)
    if patch == 1:
        return latents.permute(0, 3, 1, 2)
    parts = latents.unflatten(3, (patch, patch, -1)).permute(0, 5, 1, 3, 2, 4)
    return parts.flatten(4, 5).flatten(2, 3)
