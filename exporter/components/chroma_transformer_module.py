"""ChromaTransformer2DModel as a traceable module, whose rotary positions are inputs."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding

from diffoundry.exporter.component import Component
from diffoundry.exporter.components.flux_transformer_module import FluxModule, with_text

__all__ = ["ChromaModule"]

_DOUBLE, _SINGLE = 6, 3
"""Rows of modulation that a stream of a double block takes, and a single block."""


class ChromaModule(FluxModule):
    """Predicts the velocity of tokens. diffusers: `ChromaTransformer2DModel.forward`.

    Modulations of every block are computed once for all rows of the batch. The mask is added to the scores as it is, as
    in diffusers: pairs of tokens that both count have one more.
    """

    def __init__(self, network: Any, component: Component) -> None:
        super().__init__(network, component)
        config = network.config
        rows = _SINGLE * config.num_single_layers + 2 * _DOUBLE * config.num_layers + 2
        width = config.approximator_num_channels // 4
        guidance, places = (
            get_timestep_embedding(values, channels, flip_sin_to_cos=True, downscale_freq_shift=0)
            for values, channels in ((torch.zeros(rows), width), (torch.arange(rows) * 1000, 2 * width))
        )
        self.register_buffer("places", torch.cat([guidance, places], dim=-1), persistent=False)

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: also the mask of the prompt alone."""
        tokens = passed["encoder_hidden_states"].shape[1]
        return {
            **FluxModule.computed_inputs(network, passed),
            "attention_mask": passed["attention_mask"][:, :tokens],
        }

    def _predict(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        states = network.x_embedder(hidden_states.flatten(1, 2))
        context = network.context_embedder(encoder_hidden_states)
        tokens = context.shape[1]
        modulation = self._modulation(timestep)
        angles = (
            with_text(rotary_cos.flatten(0, 1), context, 1.0),
            with_text(rotary_sin.flatten(0, 1), context, 0.0),
        )
        mask = torch.cat([attention_mask, torch.ones_like(states[:, :, 0])], dim=1)
        shared = {"image_rotary_emb": angles, "attention_mask": mask}
        image = _SINGLE * len(network.single_transformer_blocks)
        text = image + _DOUBLE * len(network.transformer_blocks)
        for index, block in enumerate(network.transformer_blocks):
            places = (slice(first + _DOUBLE * index, first + _DOUBLE * (index + 1)) for first in (image, text))
            own = torch.cat([modulation[:, place] for place in places], dim=1)
            context, states = block(hidden_states=states, encoder_hidden_states=context, temb=own, **shared)
        states = torch.cat([context, states], dim=1)
        for index, block in enumerate(network.single_transformer_blocks):
            own = modulation[:, _SINGLE * index : _SINGLE * (index + 1)]
            states = block(hidden_states=states, temb=own, **shared)
        velocity: torch.Tensor = network.proj_out(network.norm_out(states[:, tokens:], modulation[:, -2:]))
        return velocity.reshape(velocity.shape[0], *hidden_states.shape[1:3], -1)

    def _modulation(self, timestep: torch.Tensor) -> torch.Tensor:
        """Return shifts, scales and gates of all blocks, (1, rows, width)."""
        network: Any = self.model
        places: Any = self.places
        waves = self._waves(timestep).expand(places.shape[0], -1)
        result: torch.Tensor = network.distilled_guidance_layer(torch.cat([waves, places], dim=-1).unsqueeze(0))
        return result
