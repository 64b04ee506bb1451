"""AuraFlowTransformer2DModel as a traceable module, whose positions are inputs."""

from collections.abc import Mapping
from typing import Any
from unittest import mock

import torch
from torch.nn import functional

from diffoundry.exporter.components.transformer_module import TransformerModule

__all__ = ["AuraFlowModule"]


class AuraFlowModule(TransformerModule):
    """Predicts the velocity. diffusers: `AuraFlowTransformer2DModel.forward`.

    diffusers computes which rows of the table of positions a size has. Here they are an input. The timestep is embedded
    once for all rows of the batch.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: the rows of the table of positions."""
        embed, sides = network.pos_embed, passed["hidden_states"].shape[2:]
        place = [side // embed.patch_size for side in sides]
        return {"position_ids": embed.pe_selection_index_based_on_dim(*sides).reshape(place).int()}

    def _predict(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        position_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        embed = network.pos_embed

        def embed_patches(latents: torch.Tensor) -> torch.Tensor:
            batch, channels, height, width = latents.shape
            patch = embed.patch_size
            cut = latents.reshape(batch, channels, height // patch, patch, width // patch, patch)
            tokens: torch.Tensor = embed.proj(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
            return tokens + functional.embedding(position_ids.flatten(), embed.pos_embed[0])

        with mock.patch.object(embed, "forward", embed_patches):
            velocity: torch.Tensor = network(
                hidden_states, encoder_hidden_states=encoder_hidden_states, timestep=timestep, return_dict=False
            )[0]
        return velocity
