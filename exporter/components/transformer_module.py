"""Base of the traced modules of transformers whose positions are inputs."""

from typing import Any

import torch

from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.exporter.components.unet_module import lean_layers

__all__ = ["TransformerModule"]


class TransformerModule(NetworkModule):
    """Calls the layers of a network with one output, within `lean_layers`; a subclass has `_predict`."""

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        with lean_layers():
            return {self.outputs[0]: self._predict(**keywords)}

    def _predict(self, *args: Any, **inputs: Any) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        raise NotImplementedError
