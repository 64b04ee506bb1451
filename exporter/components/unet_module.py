"""UNet2DConditionModel as a traceable module."""

import torch
from diffusers import UNet2DConditionModel

from diffoundry.exporter.component import Component
from diffoundry.runtime.models.controlnet_names import MID_RESIDUAL, is_residual

__all__ = ["UNetModule"]

_ADDED = ("text_embeds", "time_ids")
"""Inputs that diffusers takes in `added_cond_kwargs`."""


class UNetModule(torch.nn.Module):
    """diffusers' UNet with its optional inputs in a fixed order."""

    def __init__(self, unet: UNet2DConditionModel, component: Component) -> None:
        super().__init__()
        self.unet = unet
        self.names = tuple(tensor.name for tensor in component.inputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor]:
        """Denoise; the inputs are the component's, in its order."""
        given = dict(zip(self.names, tensors, strict=True))
        added = {name: given.pop(name) for name in _ADDED if name in given}
        residuals = {name: given.pop(name) for name in self.names if is_residual(name)}
        middle = residuals.pop(MID_RESIDUAL, None)
        return (
            self.unet(
                **given,
                added_cond_kwargs=added or None,
                down_block_additional_residuals=tuple(residuals.values()) or None,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0],
        )
