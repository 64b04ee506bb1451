"""SD3Transformer2DModel and SD3ControlNetModel as traceable modules."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.runtime.models.controlnet import block_residual_name, is_residual
from diffoundry.runtime.models.sd3_transformer_2d import SKIP_LAYERS

__all__ = ["SD3ControlNetModule", "SD3TransformerModule"]

_BLOCKS = "block_controlnet_hidden_states"

_GATES = (1, 4, 6)
"""Places of the gates in the results of diffusers' `AdaLayerNormZero` and `SD35AdaLayerNormZeroX`."""


class SD3TransformerModule(NetworkModule):
    """Predicts the velocity. diffusers: `SD3Transformer2DModel.forward`.

    Each layer that is skipped is an entry of an input, so that a graph serves every choice: the layer's gates, with
    which it weighs what it adds to its input, are multiplied by zero. Residuals of ControlNets have the sides of the
    image. diffusers lists the layers as integers, and joins both sides of residuals to one.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: the layers that are skipped, and residuals with the image's sides."""
        latents, patch = passed["hidden_states"], network.config.patch_size
        rows, layers = len(latents), len(network.transformer_blocks)
        skipped = torch.zeros(rows, layers)
        skipped[:, list(passed.get("skip_layers") or ())] = 1.0
        sides = [side // patch for side in latents.shape[2:]]
        residuals = passed.get(_BLOCKS) or ()
        return {
            SKIP_LAYERS: skipped,
            **{block_residual_name(i): part.reshape(rows, *sides, -1) for i, part in enumerate(residuals)},
        }

    def run(self, **keywords: Any) -> Any:
        """Call the network."""
        network: Any = self.model
        with _gated(network.transformer_blocks, 1.0 - keywords.pop(SKIP_LAYERS)):
            return network(**keywords)

    def keywords(self, tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
        """See `NetworkModule.keywords`."""
        given = dict(zip(self.inputs, tensors, strict=True))
        residuals = [given.pop(name).flatten(1, 2) for name in self.inputs if is_residual(name)]
        return {**given, **({_BLOCKS: residuals} if residuals else {})}


class SD3ControlNetModule(NetworkModule):
    """Makes residuals of a control image. diffusers: `SD3ControlNetModel.forward`."""

    def run(self, **keywords: Any) -> Any:
        """Call the network, and give its results the sides of the image."""
        network: Any = self.model
        sides = [side // network.config.patch_size for side in keywords["hidden_states"].shape[2:]]
        (samples,) = network(**keywords, return_dict=False)
        return {"controlnet_block_samples": [sample.unflatten(1, sides) for sample in samples]}


@contextmanager
def _gated(blocks: Sequence[Any], runs: torch.Tensor) -> Iterator[None]:
    """Multiply what each block adds to its input.

    Args:
        blocks: diffusers' `JointTransformerBlock`s.
        runs: (B, blocks), 1 where a block runs and 0 where it is skipped.
    """
    with ExitStack() as stack:
        for index, block in enumerate(blocks):
            norms = [block.norm1] if block.context_pre_only else [block.norm1, block.norm1_context]
            for norm in norms:
                norm.forward = partial(_gate, type(norm).forward.__get__(norm), runs[:, index : index + 1])
                stack.callback(delattr, norm, "forward")
        yield


def _gate(
    forward: Callable[..., tuple[torch.Tensor, ...]], factor: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, ...]:
    """Call a normalization whose results have gates, and multiply these."""
    results = forward(*args, **kwargs)
    return tuple(result * factor if place in _GATES else result for place, result in enumerate(results))
