"""ControlNetModel as a traceable module."""

import torch
from diffusers import ControlNetModel

from diffoundry.exporter.component import Component

__all__ = ["ControlNetModule"]

_ADDED = ("text_embeds", "time_ids")
"""Inputs that diffusers takes in `added_cond_kwargs`."""


class ControlNetModule(torch.nn.Module):
    """diffusers' ControlNet with its optional inputs in a fixed order; scales are left to who adds the residuals."""

    def __init__(self, controlnet: ControlNetModel, component: Component) -> None:
        super().__init__()
        self.controlnet = controlnet
        self.names = tuple(tensor.name for tensor in component.inputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Residuals of the way down and of the middle; the inputs are the component's, in its order."""
        given = dict(zip(self.names, tensors, strict=True))
        added = {name: given.pop(name) for name in _ADDED if name in given}
        down, middle = self.controlnet(**given, added_cond_kwargs=added or None, return_dict=False)
        return (*down, middle)
