"""FluxTransformer2DModel as a traceable module, whose rotary positions are inputs."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.transformer_module import TransformerModule

__all__ = ["FluxModule", "with_text"]

_PERIOD = 10000
"""Longest wavelength of timesteps. diffusers: `get_timestep_embedding`."""

_TRAINED = 1000
"""Timesteps of the training, and the scale of guidance. diffusers: `FluxTransformer2DModel.forward`."""


class FluxModule(TransformerModule):
    """Predicts the velocity of tokens. diffusers: `FluxTransformer2DModel.forward`.

    diffusers computes the angles of every token from its position. Here their cosines and sines are inputs, one number
    for the pair that it rotates. Tokens of the prompt are at position zero, whose rotation is none.
    """

    def __init__(self, network: Any, component: Component) -> None:
        super().__init__(network, component)
        proj = network.time_text_embed.time_proj
        half = proj.num_channels // 2
        # As diffusers computes them, to the bit: angles of a guidance scale are up to 30,000.
        exponent = -math.log(_PERIOD) * torch.arange(half, dtype=torch.float32) / (half - proj.downscale_freq_shift)
        self.register_buffer("frequencies", torch.exp(exponent), persistent=False)

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: tokens in rows and columns, and their angles."""
        ids, states = passed["img_ids"], passed["hidden_states"]
        place = _sides(ids)
        count = place[0] * place[1]
        cos, sin = (table[:, ::2] for table in network.pos_embed(ids))
        own = {"hidden_states": states[:, :count].unflatten(1, place)}
        own |= {"rotary_cos": cos[:count].unflatten(0, place), "rotary_sin": sin[:count].unflatten(0, place)}
        if count == len(ids):
            return own
        other = {"reference_cos": cos[count:], "reference_sin": sin[count:]}
        return {**own, "reference_hidden_states": states[:, count:], **other}

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        """See `NetworkModule.graph_outputs`: tokens in rows and columns."""
        rows, columns = _sides(passed["img_ids"])
        own = {name: array[:, : rows * columns] for name, array in outputs.items()}
        return {name: array.reshape(len(array), rows, columns, -1) for name, array in own.items()}

    def _predict(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        guidance: torch.Tensor | None = None,
        **reference: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        tokens, cos, sin = hidden_states.flatten(1, 2), rotary_cos.flatten(0, 1), rotary_sin.flatten(0, 1)
        count = tokens.shape[1]
        if reference:
            tokens = torch.cat([tokens, reference["reference_hidden_states"]], dim=1)
            cos, sin = torch.cat([cos, reference["reference_cos"]]), torch.cat([sin, reference["reference_sin"]])
        states = network.x_embedder(tokens)
        embed = network.time_text_embed
        embedded = embed.timestep_embedder(self._waves(timestep))
        if guidance is not None:
            embedded = embedded + embed.guidance_embedder(self._waves(guidance))
        embedded = embedded + embed.text_embedder(pooled_projections)
        context = network.context_embedder(encoder_hidden_states)
        angles = with_text(cos, context, 1.0), with_text(sin, context, 0.0)
        for block in (*network.transformer_blocks, *network.single_transformer_blocks):
            context, states = block(
                hidden_states=states, encoder_hidden_states=context, temb=embedded, image_rotary_emb=angles
            )
        own = states[:, :count] if reference else states
        velocity: torch.Tensor = network.proj_out(network.norm_out(own, embedded))
        return velocity.reshape(velocity.shape[0], *place, -1)

    def _waves(self, scale: torch.Tensor) -> torch.Tensor:
        """Return cosines and sines of timesteps or scales (B,), (B, 256). diffusers: `get_timestep_embedding`."""
        frequencies: Any = self.frequencies
        angles = (scale * _TRAINED)[:, None] * frequencies
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def _sides(ids: torch.Tensor) -> tuple[int, int]:
    """Return rows and columns of the tokens at positions (tokens, 3), without those of a reference."""
    own = ids[ids[:, 0] == 0]
    rows, columns = (int(own[:, axis].max()) + 1 for axis in (1, 2))
    return rows, columns


def with_text(table: torch.Tensor, context: torch.Tensor, value: float) -> torch.Tensor:
    """Return a table (tokens of the text and of the image, 2 D), with two equal numbers for a pair."""
    text = torch.full_like(context[0, :, :1], value).expand(-1, table.shape[-1])
    return torch.cat([text, table]).repeat_interleave(2, dim=-1)
