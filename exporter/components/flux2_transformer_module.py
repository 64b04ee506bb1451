"""Flux2Transformer2DModel as a traceable module, whose rotary positions are inputs."""

from collections.abc import Mapping
from typing import Any

import torch

from diffoundry.exporter.components.flux_transformer_module import FluxEmbeddings, token_sides

__all__ = ["Flux2Module"]


class Flux2Module(FluxEmbeddings):
    """Predicts the velocity of tokens. diffusers: `Flux2Transformer2DModel.forward`.

    diffusers computes the angles of every token from its position. Here their cosines and sines are inputs, one number
    for the pair that it rotates.
    """

    embedding = "time_guidance_embed"

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: tokens in rows and columns, and the angles of all tokens."""
        ids, states = passed["img_ids"][0], passed["hidden_states"]
        place = token_sides(ids)
        count = place[0] * place[1]
        (cos, sin), text = (
            tuple(table[:, ::2] for table in network.pos_embed(one)) for one in (ids, passed["txt_ids"][0])
        )
        return {
            "hidden_states": states[:, :count].unflatten(1, place),
            "rotary_cos": cos[:count].unflatten(0, place),
            "rotary_sin": sin[:count].unflatten(0, place),
            "text_cos": text[0],
            "text_sin": text[1],
            "reference_hidden_states": states[:, count:],
            "reference_cos": cos[count:],
            "reference_sin": sin[count:],
        }

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        """See `NetworkModule.graph_outputs`: tokens in rows and columns."""
        return FluxEmbeddings.graph_outputs({**passed, "img_ids": passed["img_ids"][0]}, outputs)

    def _predict(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        reference_hidden_states: torch.Tensor,
        guidance: torch.Tensor | None = None,
        **tables: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        tokens = hidden_states.flatten(1, 2)
        count, texts = tokens.shape[1], encoder_hidden_states.shape[1]
        states = network.x_embedder(torch.cat([tokens, reference_hidden_states], dim=1))
        context = network.context_embedder(encoder_hidden_states)
        embedded = self.embed(timestep, guidance)
        angles = tuple(
            torch.cat([tables[f"text_{name}"], tables[f"rotary_{name}"].flatten(0, 1), tables[f"reference_{name}"]])
            .repeat_interleave(2, dim=-1)
            for name in ("cos", "sin")
        )  # fmt: skip
        image, text = network.double_stream_modulation_img(embedded), network.double_stream_modulation_txt(embedded)
        for block in network.transformer_blocks:
            context, states = block(
                hidden_states=states,
                encoder_hidden_states=context,
                temb_mod_img=image,
                temb_mod_txt=text,
                image_rotary_emb=angles,
            )
        states = torch.cat([context, states], dim=1)
        modulation = network.single_stream_modulation(embedded)
        for block in network.single_transformer_blocks:
            states = block(
                hidden_states=states, encoder_hidden_states=None, temb_mod=modulation, image_rotary_emb=angles
            )
        own = states[:, texts:][:, :count]  # of the sizes of the first block's sum, around which `export --split` cuts
        velocity: torch.Tensor = network.proj_out(network.norm_out(own, embedded))
        return velocity.reshape(velocity.shape[0], *place, -1)
