"""The input of networks for layers whose self-attention is perturbed: their tokens see themselves alone."""

from collections.abc import Iterable

from diffoundry.runtime.bundle.specs import TensorSpec

__all__ = ["IDENTITY_LAYERS", "perturbed_layers"]

IDENTITY_LAYERS = "identity_layers"
"""Name of the input, float32 (B, layers): 1 for a layer that is perturbed, 0 for others."""


def perturbed_layers(inputs: Iterable[TensorSpec]) -> int:
    """Return the number of layers of a network that perturbs some; 0 for a network that perturbs none.

    Args:
        inputs: Of the network.
    """
    shapes = {spec.name: spec.shape for spec in inputs}
    layers = shapes.get(IDENTITY_LAYERS, (0, 0))[1]
    return layers if isinstance(layers, int) else 0
