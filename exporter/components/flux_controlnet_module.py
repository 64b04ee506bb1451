"""FluxControlNetModel as a traceable module, whose rotary positions are inputs."""

from collections.abc import Mapping
from typing import Any

import torch

from diffoundry.exporter.components.flux_transformer_module import FluxEmbeddings, token_sides
from diffoundry.exporter.components.unet_module import lean_layers

__all__ = ["FluxControlNetModule"]


class FluxControlNetModule(FluxEmbeddings):
    """Makes residuals of a control image. diffusers: `FluxControlNetModel.forward`.

    Residuals, and the latents of the image, have the sides of the image. A union of ControlNets begins its text with a
    token of its own for the kind of image.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: tokens in rows and columns, and their angles."""
        own, image = FluxEmbeddings.computed_inputs(network, passed), passed["controlnet_cond"]
        if network.input_hint_block is None:
            image = image.unflatten(1, token_sides(passed["img_ids"]))
        return {**own, "controlnet_cond": image}

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        with lean_layers():
            return self._residuals(**keywords)

    def _residuals(
        self,
        hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        guidance: torch.Tensor | None = None,
        controlnet_mode: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        states = network.x_embedder(hidden_states.flatten(1, 2))
        states = states + network.controlnet_x_embedder(self._image_tokens(controlnet_cond))
        embedded = self.embed(timestep, guidance, pooled_projections)
        context = network.context_embedder(encoder_hidden_states)
        if controlnet_mode is not None:
            mode = network.controlnet_mode_embedder(controlnet_mode.long())[None]
            context = torch.cat([mode.expand(context.shape[0], -1, -1), context], dim=1)
        angles = self.angles(context, rotary_cos.flatten(0, 1), rotary_sin.flatten(0, 1))
        groups = (
            (network.transformer_blocks, network.controlnet_blocks),
            (network.single_transformer_blocks, network.controlnet_single_blocks),
        )
        residuals = []
        for blocks, projections in groups:
            for block, projection in zip(blocks, projections, strict=True):
                context, states = block(
                    hidden_states=states, encoder_hidden_states=context, temb=embedded, image_rotary_emb=angles
                )
                residuals.append(projection(states).unflatten(1, place))
        return tuple(residuals)

    def _image_tokens(self, image: torch.Tensor) -> torch.Tensor:
        """Return the tokens of a control image (B, tokens, C), of its latents or of features of its pixels."""
        network: Any = self.model
        if network.input_hint_block is None:
            return image.flatten(1, 2)
        patch = network.config.patch_size
        features = network.input_hint_block(image)
        cut = features.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        tokens: torch.Tensor = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return tokens
