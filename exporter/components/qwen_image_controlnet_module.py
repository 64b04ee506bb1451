"""QwenImageControlNetModel as a traceable module, in real numbers, whose rotary positions are inputs."""

from collections.abc import Mapping
from typing import Any

import torch

from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.exporter.components.qwen_image_transformer_module import QwenImageModule, make_tables, run_block

__all__ = ["QwenImageControlNetModule"]


class QwenImageControlNetModule(NetworkModule):
    """Makes residuals of a control image. diffusers: `QwenImageControlNetModel.forward`.

    Residuals, and the latents of the image, have the sides of the image.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: tokens in rows and columns, their angles, and a mask."""
        own = QwenImageModule.computed_inputs(network, passed)
        place = own["hidden_states"].shape[1:3]
        return {**own, "controlnet_cond": passed["controlnet_cond"].unflatten(1, place)}

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        return self._residuals(**keywords)

    def _residuals(
        self,
        hidden_states: torch.Tensor,
        controlnet_cond: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor,
        rotary_cos: torch.Tensor,
        rotary_sin: torch.Tensor,
        text_cos: torch.Tensor,
        text_sin: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        place = hidden_states.shape[1:3]
        angles = rotary_cos.flatten(0, 1), rotary_sin.flatten(0, 1)
        tables = make_tables(encoder_hidden_states_mask, (text_cos, text_sin), angles)
        states = network.img_in(hidden_states.flatten(1, 2))
        states = states + network.controlnet_x_embedder(controlnet_cond.flatten(1, 2))
        embedded = network.time_text_embed(timestep, states)
        context = network.txt_in(network.txt_norm(encoder_hidden_states))
        residuals = []
        for block, projection in zip(network.transformer_blocks, network.controlnet_blocks, strict=True):
            context, states = run_block(block, states, context, embedded, tables, states.shape[1])
            residuals.append(projection(states).unflatten(1, place))
        return tuple(residuals)
