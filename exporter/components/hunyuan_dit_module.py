"""HunyuanDiT2DModel and its ControlNet as traceable modules, whose rotary positions are inputs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import PAGCFGHunyuanAttnProcessor2_0, PAGHunyuanAttnProcessor2_0

from diffoundry.exporter.components.network_module import NetworkModule
from diffoundry.exporter.components.perturbed_layers import mix_own_value, perturbed_input
from diffoundry.exporter.components.transformer_module import TransformerModule
from diffoundry.exporter.components.unet_module import lean_layers
from diffoundry.runtime.models.controlnet import block_residual_name, is_residual
from diffoundry.runtime.models.identity_layers import IDENTITY_LAYERS

__all__ = ["HunyuanDiTControlNetModule", "HunyuanDiTModule"]


class HunyuanDiTModule(TransformerModule):
    """Predicts noise, and its variance where the network does. diffusers: `HunyuanDiT2DModel.forward`.

    Cosines and sines of the positions are inputs, one number for the pair that it rotates. Masks are floats. The style
    is the only one that there is. The timestep is embedded once for all rows of the batch. Residuals of ControlNets
    have the sides of the image.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: masks as floats, one number for each pair of positions, residuals."""
        patch = network.config.patch_size
        place = [side // patch for side in passed["hidden_states"].shape[2:]]
        cos, sin = (table[:, ::2].reshape(*place, -1) for table in passed["image_rotary_emb"])
        masks = {name: passed[name].float() for name in ("text_embedding_mask", "text_embedding_mask_t5")}
        residuals = passed.get("controlnet_block_samples") or ()
        samples = {block_residual_name(index): part.unflatten(1, place) for index, part in enumerate(residuals)}
        perturbed = perturbed_input(network.blocks, len(passed["hidden_states"]), _PARTS)
        return {"rotary_cos": cos, "rotary_sin": sin, **masks, **samples, **perturbed}

    def _predict(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        residuals = [inputs.pop(name).flatten(1, 2) for name in self.inputs if is_residual(name)]
        samples = {"controlnet_block_samples": residuals} if residuals else {}
        with _perturbing(network.blocks, inputs.pop(IDENTITY_LAYERS, None)):
            predicted: torch.Tensor = network(**_arguments(inputs), **samples, return_dict=False)[0]
        return predicted


class HunyuanDiTControlNetModule(NetworkModule):
    """Makes residuals of a control image. diffusers: `HunyuanDiT2DControlNetModel.forward`."""

    computed_inputs = staticmethod(HunyuanDiTModule.computed_inputs)

    def run(self, **keywords: Any) -> Any:
        """Call the network, and give its results the sides of the image."""
        network: Any = self.model
        sides = [side // network.config.patch_size for side in keywords["hidden_states"].shape[2:]]
        with lean_layers():
            (samples,) = network(**_arguments(keywords), return_dict=False)
        return [sample.unflatten(1, sides) for sample in samples]


class _PerturbedProcessor:
    """Runs self-attention, and gives some rows each token's own value. diffusers: `PAGHunyuanAttnProcessor2_0`."""

    def __init__(self, processor: Any, alone: torch.Tensor) -> None:
        """Wrap a processor; `alone` as in `mix_own_value`."""
        self._processor, self._alone = processor, alone

    def __call__(
        self,
        attention: Any,
        states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, ...] | None = None,
    ) -> torch.Tensor:
        """See `mix_own_value`. diffusers passes only what a processor's signature names."""
        result = self._processor(
            attention, states, encoder_hidden_states, attention_mask, image_rotary_emb=image_rotary_emb
        )
        return mix_own_value(attention, states, result, self._alone)


@contextmanager
def _perturbing(blocks: Any, layers: torch.Tensor | None) -> Iterator[None]:
    """Perturb self-attention where `layers` (B, layers) is 1; None perturbs none."""
    kept = [block.attn1.processor for block in blocks]
    if layers is not None:
        for index, block in enumerate(blocks):
            block.attn1.processor = _PerturbedProcessor(kept[index], layers[:, index])
    try:
        yield
    finally:
        for block, processor in zip(blocks, kept, strict=True):
            block.attn1.processor = processor


_PARTS = {PAGCFGHunyuanAttnProcessor2_0: 3, PAGHunyuanAttnProcessor2_0: 2}
"""See `perturbed_input`."""


def _arguments(inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the arguments of diffusers for inputs of a graph."""
    tables = {"rotary_cos", "rotary_sin"}
    angles = tuple(inputs[name].flatten(0, 1).repeat_interleave(2, dim=-1) for name in sorted(tables))
    style = torch.zeros_like(inputs["text_embedding_mask"][:, 0], dtype=torch.int32)
    own = {name: tensor for name, tensor in inputs.items() if name not in tables}
    return {**own, "style": style, "image_rotary_emb": angles}
