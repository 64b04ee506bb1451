"""Torch module that is traced for a component: calls any network with the keywords that its component declares."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffoundry.exporter.component import Component

__all__ = ["NetworkModule"]


class NetworkModule(torch.nn.Module):
    """Calls a network, or some of its layers, with tensors in the order of the component's inputs."""

    def __init__(self, network: torch.nn.Module, component: Component) -> None:
        super().__init__()
        self.call = component.call
        self.inputs = tuple(tensor.name for tensor in component.inputs)
        self.outputs = tuple(tensor.name for tensor in component.outputs)
        self.layers = tuple(name for name in self.call.layers if getattr(network, name, None) is not None)
        if self.call.layers:
            for name in self.layers:
                self.add_module(name, getattr(network, name))
        else:
            self.model = network

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the network.

        Args:
            tensors: In the order of the component's inputs.

        Returns:
            The component's outputs, in its order.
        """
        if self.call.layers:
            (tensor,) = tensors
            for name in self.layers:
                tensor = getattr(self, name)(tensor)
            return (tensor,)
        result = self.run(**self.keywords(tensors))
        return tuple(self.pick(result, name) for name in self.outputs)

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:  # noqa: ARG004
        """Return the inputs of the graph that a network computes of its arguments; by default none.

        Args:
            network: The network.
            passed: Arguments of its `forward`.
        """
        return {}

    @staticmethod
    def graph_outputs(passed: Mapping[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG004
        """Return the outputs of the graph for what a network returns; by default the same arrays.

        Args:
            passed: Arguments of its `forward`.
            outputs: Output of the graph to its array.
        """
        return outputs

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        return self.model(**keywords)

    def keywords(self, tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Keyword arguments of the network's `forward`."""
        keywords: dict[str, Any] = dict(self.call.options)
        for name, tensor in zip(self.inputs, tensors, strict=True):
            keyword, _, key = self.call.keywords.get(name, name).partition(".")
            if not key:
                keywords[keyword] = tensor
            elif key.isdecimal():
                keywords[keyword] = (*keywords.get(keyword, ()), tensor)
            else:
                keywords[keyword] = {**keywords.get(keyword, {}), key: tensor}
        return keywords

    def pick(self, result: Any, name: str) -> torch.Tensor:
        """Select an output from the network's result."""
        for key in self.call.results.get(name, name).split("."):
            result = _item(result, key)
        tensor: torch.Tensor = result
        return tensor


def _item(result: Any, key: str) -> Any:
    if key.isdecimal():
        return result[int(key)]
    return result[key] if isinstance(result, Mapping) else getattr(result, key)
