"""HunyuanDiT2DModel as a traceable module, whose rotary positions are inputs."""

from collections.abc import Mapping
from typing import Any

import torch

from diffoundry.exporter.components.transformer_module import TransformerModule

__all__ = ["HunyuanDiTModule"]


class HunyuanDiTModule(TransformerModule):
    """Predicts noise, and its variance where the network does. diffusers: `HunyuanDiT2DModel.forward`.

    Cosines and sines of the positions are inputs, one number for the pair that it rotates. Masks are floats. The style
    is the only one that there is. The timestep is embedded once for all rows of the batch.
    """

    @staticmethod
    def computed_inputs(network: Any, passed: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """See `NetworkModule.computed_inputs`: masks as floats, and one number for each pair of positions."""
        patch = network.config.patch_size
        place = [side // patch for side in passed["hidden_states"].shape[2:]]
        cos, sin = (table[:, ::2].reshape(*place, -1) for table in passed["image_rotary_emb"])
        masks = {name: passed[name].float() for name in ("text_embedding_mask", "text_embedding_mask_t5")}
        return {"rotary_cos": cos, "rotary_sin": sin, **masks}

    def _predict(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Compute the network; arguments as the component's inputs."""
        network: Any = self.model
        angles = tuple(
            inputs.pop(name).flatten(0, 1).repeat_interleave(2, dim=-1) for name in ("rotary_cos", "rotary_sin")
        )
        style = torch.zeros_like(inputs["text_embedding_mask"][:, 0], dtype=torch.int32)
        predicted: torch.Tensor = network(**inputs, style=style, image_rotary_emb=angles, return_dict=False)[0]
        return predicted
