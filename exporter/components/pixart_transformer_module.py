"""PixArtTransformer2DModel as a traceable module, whose positions are inputs."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import PAGCFGIdentitySelfAttnProcessor2_0, PAGIdentitySelfAttnProcessor2_0

from diffoundry.exporter.components.patch_positions import place_patches, position_tables
from diffoundry.exporter.components.perturbed_layers import mix_own_value, perturbed_input
from diffoundry.exporter.components.transformer_module import TransformerModule

__all__ = ["PixArtModule"]

_HIDDEN = -10000.0
"""Added to the scores of padding. diffusers: `PixArtTransformer2DModel.forward`."""


class PixArtModule(TransformerModule):
    """Predicts noise, and its variance where the network does. diffusers: `PixArtTransformer2DModel.forward`.

    diffusers computes sine and cosine of every patch's position for each size. Here they are inputs, one table for rows
    and one for columns, so that a graph serves every size. Timestep and size are embedded once for all rows.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: the tables of positions, and the size once."""
        sizes = {name: value[:1] for name, value in _sizes(passed).items() if value is not None}
        perturbed = perturbed_input(network.transformer_blocks, len(passed["hidden_states"]), _PARTS)
        return {**position_tables(network.pos_embed, passed["hidden_states"].shape[2:]), **sizes, **perturbed}

    def _predict(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        position_rows: torch.Tensor,
        position_columns: torch.Tensor,
        identity_layers: torch.Tensor | None = None,
        **sizes: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        features = network.pos_embed.proj(hidden_states)
        batch, _, rows, columns = features.shape
        states = place_patches(features, position_rows, position_columns)
        modulation, embedded = network.adaln_single(
            timestep, sizes or None, batch_size=1, hidden_dtype=hidden_states.dtype
        )
        context = encoder_hidden_states
        if network.caption_projection is not None:
            context = network.caption_projection(context)
        hidden = ((1.0 - encoder_attention_mask) * _HIDDEN).unsqueeze(1)
        for index, block in enumerate(network.transformer_blocks):
            alone = None if identity_layers is None else identity_layers[:, index]
            states = _run_block(block, states, modulation.reshape(1, 6, -1), context, hidden, alone)
        shift, scale = (network.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        states = network.proj_out(network.norm_out(states) * (1 + scale) + shift)
        patch, channels = network.config.patch_size, network.out_channels
        patches = states.reshape(batch, rows, columns, patch, patch, channels)
        patches = torch.einsum("nhwpqc->nchpwq", patches)
        return patches.reshape(batch, channels, rows * patch, columns * patch)


def _run_block(
    block: Any,
    states: torch.Tensor,
    modulation: torch.Tensor,
    context: torch.Tensor,
    hidden: torch.Tensor,
    alone: torch.Tensor | None,
) -> torch.Tensor:
    """Run a block with one modulation (1, 6, D) for all rows. diffusers: `BasicTransformerBlock`, "ada_norm_single".

    In rows where `alone` (B,) is 1, tokens of the image attend to themselves alone.
    """
    numbers = (block.scale_shift_table[None] + modulation).chunk(6, dim=1)
    shift, scale, gate, last_shift, last_scale, last_gate = numbers
    states = states + gate * _attend(block.attn1, block.norm1(states) * (1 + scale) + shift, alone)
    states = states + block.attn2(states, encoder_hidden_states=context, attention_mask=hidden)
    result: torch.Tensor = states + last_gate * block.ff(block.norm2(states) * (1 + last_scale) + last_shift)
    return result


def _attend(attention: Any, states: torch.Tensor, alone: torch.Tensor | None) -> torch.Tensor:
    """Run self-attention, whose result for a token that attends to itself alone is its own value, projected."""
    result: torch.Tensor = attention(states)
    if alone is None:
        return result
    return mix_own_value(attention, states, result, alone)


_PARTS = {PAGCFGIdentitySelfAttnProcessor2_0: 3, PAGIdentitySelfAttnProcessor2_0: 2}
"""Processor of diffusers to the number of equal parts of the rows, of which it perturbs the last."""


def _sizes(passed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return resolution and aspect ratio of a call, which are None where the network takes none."""
    given: Mapping[str, Any] = passed.get("added_cond_kwargs") or {}
    return given
