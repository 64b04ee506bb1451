"""ZImageControlNetModel as a traceable module, with the layers that it has of the transformer."""

from collections.abc import Iterable, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers.models.controlnets import controlnet_z_image
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock

from diffoundry.exporter.components.z_image_transformer_module import (
    Tokens,
    ZImageModule,
    attend,
    join_tokens,
    pad_image,
    patch_tokens,
    residual_arrays,
)
from diffoundry.runtime.models.z_image_transformer_2d import PATCH_KEY, PENDING

__all__ = ["ZImageControlNetModule"]

_PROCESSOR = controlnet_z_image.ZSingleStreamAttnProcessor


class ZImageControlNetModule(ZImageModule):
    """Makes residuals of a control image. diffusers: `ZImageControlNetModel.forward`.

    Those of hidden tokens are zeros.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: those of the transformer, and tokens of the condition."""
        condition = torch.from_numpy(np.ascontiguousarray(patch_tokens(passed["control_context"])))
        return {**ZImageModule.computed_inputs(network, passed), "controlnet_cond": condition}

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
        """See `NetworkModule.graph_outputs`: each residual in three parts."""
        return residual_arrays(passed, {int(place): torch.from_numpy(array) for place, array in outputs.items()})

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        with mock.patch.object(_PROCESSOR, "__call__", attend):
            return super().run(**keywords)

    def compute(
        self, place: tuple[int, ...], image: Tokens, caption: Tokens, t: torch.Tensor, **others: torch.Tensor
    ) -> Any:
        """See `ZImageModule.compute`; `others` are the condition and the scale of all residuals."""
        network: Any = self.model
        time, scale, refiner = self.embed_time(t), others["conditioning_scale"], network.add_control_noise_refiner
        embedded = network.control_all_x_embedder[PATCH_KEY](others["control_context"].flatten(1, 2))
        context = pad_image(embedded, network.x_pad_token)
        hints: dict[int, torch.Tensor] = {}
        if refiner is not None:
            layers = network.control_layers if refiner == "control_layers" else network.control_noise_refiner
            found, context = _guide(layers, context, image, time)
            hints = dict(zip(network.control_refiner_layers_places, found, strict=False))
        states = image.states
        for index, block in enumerate(network.noise_refiner):
            states = block(states, image.scores, image.angles, time)
            states = states + hints[index] * scale if index in hints else states
        caption = self.refine_caption(caption)
        if refiner is None:
            for block in network.control_noise_refiner:
                context = block(context, image.scores, image.angles, time)
        joined = join_tokens(image._replace(states=states), caption)
        residuals, _ = _guide(network.control_layers, torch.cat([context, caption.states], dim=1), joined, time)
        factor = joined.seen[:, :, None] * scale
        return [part for one in residuals for part in _parts(one * factor, place, caption.states.shape[1])]


def _guide(
    layers: Iterable[Any], context: torch.Tensor, tokens: Tokens, time: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Run blocks of control. diffusers: `ZImageControlTransformerBlock.forward`.

    Returns:
        A residual for each block, and what the last one makes of the context.
    """
    residuals = []
    for layer in layers:
        if layer.block_id == 0:
            context = layer.before_proj(context) + tokens.states
        context = ZImageTransformerBlock.forward(layer, context, tokens.scores, tokens.angles, time)
        residuals.append(layer.after_proj(context))
    return residuals, context


def _parts(residual: torch.Tensor, place: tuple[int, ...], caption: int) -> tuple[torch.Tensor, ...]:
    """Cut a residual (B, tokens, D) into those of the image, of its padding and of the caption."""
    count = place[0] * place[1]
    padding, text = residual.narrow(1, count, PENDING), residual.narrow(1, count + PENDING, caption)
    return residual.narrow(1, 0, count).reshape(residual.shape[0], *place, -1), padding, text
